"""The verb ``resume``: go on with a run from its newest whole checkpoint, by its own recipe and plan.

What leaves alone what is learnt may be overridden; a larger budget extends a run, also one that is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from modelwright.app.assemble import assemble
from modelwright.app.bearing import check_bearable
from modelwright.app.check import check_launch
from modelwright.app.display import announce_plan, announce_run, speaker
from modelwright.app.extending import Place, check_extension, place_of, total_steps
from modelwright.app.layout import check_laid_out
from modelwright.app.located import located
from modelwright.app.placing import PRELOAD
from modelwright.app.replan import fields_of, revised, tell, whole_plan
from modelwright.app.session import logged
from modelwright.app.trust import check_trust, check_unedited
from modelwright.app.watch import run_workers
from modelwright.app.worker import planned
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit, listening
from modelwright.base.plan import Plan
from modelwright.launch import Warm
from modelwright.models.attention import attention_kernels
from modelwright.parallel.laying import layouts_of
from modelwright.parallel.recompute import recomputed
from modelwright.recipe import Loaded, Recipe, load, load_recipe, to_yaml
from modelwright.recipe.changes import Change, below, changes, told
from modelwright.recipe.own import optimizers_of
from modelwright.runs import Run, locked
from modelwright.runs.environment import environment
from modelwright.runs.weights import list_checkpoints
from modelwright.training.checking import check_layout
from modelwright.training.checkpoints import find_newest, none_whole


def resume(name: str, overrides: Sequence[str] = (), *, folder: Path, console: Console, trust: bool = False) -> Run:
    """Go on with a run that was stopped, interrupted or failed; or, with a larger budget, one that is finished.

    Args:
        name: of the run, or its path.
        overrides: dotted assignments that leave alone what is learnt: ``plan.workers=1``, ``budget.steps=2000``.
        folder: where runs lie.
        console: where progress is shown.
        trust: run foreign code that a run from elsewhere names.

    Raises:
        ModelwrightError: the run is finished or still at work, or needs to be trusted first; or an override would make
            another run of it.
    """
    run = Run.open(name, folder)
    with locked(run.path):
        if not overrides:
            check_resumable(run)
        check_trust(run, trust)
        check_unedited(run)
        wish = _wished(run, overrides, name)
        if overrides:
            check_resumable(run, extended=wish.extends)
        announce_run(console, run)
        with logged(run), listening(speaker(console)):
            plan = _revised(run, wish) if wish.changes else planned(run)
            _tell_elsewhere(run)
        recipe = load_recipe(run.recipe_path)
        announce_plan(console, plan)
        with Warm(PRELOAD) as warm:
            run_workers(run, plan, warm, console, watch=recipe.watch)
    return run


def check_resumable(run: Run, *, extended: bool = False) -> None:
    """Refuse what has nothing left to do, or is being done, or has lost what it began from.

    Raises:
        ModelwrightError: the run is finished and not ``extended``, a process works on it, or it is a branch without a
            whole checkpoint.
    """
    if run.status() == "finished" and not extended:
        raise ModelwrightError(
            f"the run '{run.name}' is finished: there is nothing to resume",
            where=str(run.path),
            remedy=f"extend it: modelwright resume {run.path} budget.steps=N; or train on with other settings: "
            f"modelwright branch {run.path}",
        )
    if run.alive():
        raise ModelwrightError(
            f"the run '{run.name}' is still at work",
            where=str(run.path),
            remedy="wait for it, or stop it with Ctrl-C where it runs",
        )
    if run.record.parent_step is not None and find_newest(run.checkpoints) is None:
        raise ModelwrightError(
            f"the run '{run.name}' branched off from a checkpoint, of which it has no whole copy any more: it would "
            "begin with other weights",
            where=str(run.checkpoints),
            remedy=f"branch off again: modelwright branch {run.record.parent_path} --step {run.record.parent_step}",
        )


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What the user wants otherwise.

    Attributes:
        loaded: the recipe with the overrides.
        changes: where it differs from the run's own.
        called: the run, as the user names it.
    """

    loaded: Loaded[Recipe]
    changes: tuple[Change, ...]
    called: str

    @property
    def extends(self) -> bool:
        return any(below(change.path, ("budget",)) for change in self.changes)


def _wished(run: Run, overrides: Sequence[str], called: str) -> _Wish:
    loaded = load(run.recipe_path, overrides)
    found = tuple(changes(load_recipe(run.recipe_path), loaded.recipe)) if overrides else ()
    if found:
        check_bearable(loaded, found, planned(run), called)
        with located(loaded):
            check_launch(loaded.recipe, detect())
    return _Wish(loaded=loaded, changes=found, called=called)


def _revised(run: Run, wish: _Wish) -> Plan:
    """The plan as it is wished now; nothing is written before everything is found to be possible."""
    recipe = wish.loaded.recipe
    place = place_of(_newest(run, recipe))
    with located(wish.loaded):
        old = whole_plan(run, recipe.launch)
        plan = _rearranged(run, recipe, old, fields_of(wish.changes))
        if wish.extends:
            plan = _extended(run, recipe, plan, place, wish.called)
    if run.status() == "finished":
        run.update(status="stopped")
    plan = run.write_plan(plan)  # before the recipe: after a kill in between the same command does the rest
    run.revise_recipe(to_yaml(recipe))
    listed = ", ".join(f"{change.path}={change.after}" for change in told(wish.changes))
    emit("recipe-revised", f"from step {place.step + 1} on: {listed}", step=place.step, changes=_plain(wish.changes))
    tell(old, plan, place.step)
    return plan


def _newest(run: Run, recipe: Recipe) -> Path | None:
    """The newest whole checkpoint; ``None`` where none was ever written."""
    newest = find_newest(run.checkpoints, recipe.saving.to)
    if newest is None and (run.status() == "finished" or list_checkpoints(run.checkpoints)):
        raise none_whole(run.checkpoints)
    return newest


def _rearranged(run: Run, recipe: Recipe, plan: Plan, fields: set[str]) -> Plan:
    kernels: Sequence[str] = ()
    if fields & {"attention", "recompute"}:  # what the model can bear
        model = assemble(run).model
        kernels = attention_kernels(model, plan.device)
        if "recompute" in fields and recipe.plan.recompute != "auto":
            recomputed(model, recipe.plan.recompute)
    new = revised(plan, recipe.plan, fields, batch=recipe.batch, cluster=detect(), kernels=kernels)
    check_layout(new, batch=recipe.batch, optimizers=optimizers_of(recipe))
    if layouts_of(new) and fields & {"layout", "workers"}:
        training = assemble(run, begin=False)
        check_laid_out(new, recipe, training.model, training.data)
    return new


def _extended(run: Run, recipe: Recipe, plan: Plan, place: Place, called: str) -> Plan:
    total = total_steps(recipe, place, run, lambda: assemble(run).data.train)
    if total != plan.steps:
        check_extension(recipe, place, plan.steps, total, called)
    return replace(plan, steps=total)


def _tell_elsewhere(run: Run) -> None:
    """Another processor or torch may round otherwise."""
    here = detect()
    before, now = run.environment(), environment(cluster={"device_name": here.device_name})
    known = ("cpu", "packages.torch", *(("cluster.device_name",) if here.device == "cuda" else ()))
    facts = {name: (_fact(before, name), _fact(now, name)) for name in known}
    changed = {name: list(pair) for name, pair in facts.items() if pair[0] and pair[0] != pair[1]}
    if changed:
        listed = ", ".join(
            f"{name.removeprefix('packages.')} {new} instead of {old}" for name, (old, new) in changed.items()
        )
        what = f"the run goes on with {listed}: perhaps no longer as it was begun in every bit"
        emit("resumed-elsewhere", what, level="warning", changed=changed)


def _fact(facts: object, path: str) -> object:
    for part in path.split("."):
        facts = facts.get(part) if isinstance(facts, dict) else None
    return facts


def _plain(found: Sequence[Change]) -> list[list[object]]:
    return [list(change) for change in found]
