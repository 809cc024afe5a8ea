"""The verb ``branch``: a new run that goes on from a kept checkpoint of another, with other settings or the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from modelwright.app.assemble import assemble, prepare, refuse_other_tokens, tokenizer_of
from modelwright.app.check import check_launch, check_model, check_techniques
from modelwright.app.display import announce_plan, announce_run, speaker
from modelwright.app.extending import Place, check_mean, check_patience, place_of, seam, total_steps
from modelwright.app.inheriting import inherit, place_is_lost
from modelwright.app.kept import kept_checkpoint
from modelwright.app.layout import check_laid_out
from modelwright.app.located import located
from modelwright.app.placing import PRELOAD
from modelwright.app.replan import fields_of, revised, whole_plan
from modelwright.app.session import logged
from modelwright.app.stopping import ended_by_sigterm
from modelwright.app.trust import check_trust, check_unedited
from modelwright.app.watch import run_workers
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError, raise_all
from modelwright.base.events import emit, listening
from modelwright.base.files import file_hash
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.launch import Warm
from modelwright.models.attention import attention_kernels
from modelwright.recipe import Loaded, Recipe, load, load_recipe, to_yaml
from modelwright.recipe.changes import Change, below, changes, told
from modelwright.recipe.own import build_objective
from modelwright.runs import Run, locked, remove
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared
from modelwright.training.training import Training

_OTHER_STEPS = ("budget", "batch", "data", "sampling")
_NOT_HERE = {
    "name": ("a run is named by its folder", "give it with --name"),
    "initial": ("the weights are those of the checkpoint", "leave it out"),
    "start": ("the weights are those of the checkpoint", "leave it out; to start from other weights, train"),
    "plan.measure": ("a branch runs by the plan of its parent and is not measured anew", "leave it out"),
}
_TAKEN = ("data.json", "tokenizer")


def branch(
    source: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path,
    console: Console,
    step: int | None = None,
    name: str | None = None,
    trust: bool = False,
) -> Run:
    """Train on in a new run, from a kept checkpoint: weights, moments, averages, place in the data.

    The parent stays as it is. What the overrides make unfit is left behind, and an event says so.

    Args:
        source: the parent's name or path.
        overrides: dotted assignments; free as far as the weights fit the model.
        folder: where runs lie.
        console: where progress is shown.
        step: of the checkpoint; the newest whole one where it is ``None``.
        name: of the new run, beside its parent; ``PARENT-from-STEP`` where it is ``None``.
        trust: run foreign code that a run from elsewhere names.

    Raises:
        ModelwrightError: no such checkpoint, the weights do not fit, or nothing is left to train.
        RunFailed: a worker died or training diverged.
    """
    parent = Run.open(source, folder)
    check_trust(parent, trust)
    check_unedited(parent)
    checkpoint = kept_checkpoint(parent, step)
    loaded, own = load(parent.recipe_path, overrides), load_recipe(parent.recipe_path)
    found = changes(own, loaded.recipe)
    place = place_of(checkpoint)
    with located(loaded):
        _check(found, loaded, own, place, source)
    with Warm(PRELOAD) as warm:
        run = Run.create(parent.path.parent, name or f"{parent.name}-from-{place.step}", "train", parent=parent)
        with locked(run.path):
            announce_run(console, run)
            with located(loaded), logged(run), listening(speaker(console)), ended_by_sigterm(), _whole(run, console):
                with console.status("taking over the checkpoint"):
                    plan = _begun(run, parent, checkpoint, loaded.recipe, found)
                _tell(parent, place, own, loaded.recipe, plan)
            announce_plan(console, plan)
            run_workers(run, plan, warm, console, watch=loaded.recipe.watch)
    return run


def _check(found: Sequence[Change], loaded: Loaded[Recipe], own: Recipe, place: Place, source: str) -> None:
    refused = [(change, words) for change in found for part, words in _NOT_HERE.items() if below(change.path, (part,))]
    raise_all(
        [
            ModelwrightError(f"'{change.path}' cannot be given: {why}", where=loaded.where(change.path), remedy=remedy)
            for change, (why, remedy) in refused
        ]
    )
    if not any(below(change.path, ("evaluation", "objective", "data")) for change in found):
        check_patience(own, place, source)
    check_launch(loaded.recipe, detect())


@contextmanager
def _whole(run: Run, console: Console) -> Iterator[None]:
    """A mistake found here has cost nothing, so the empty run is taken away again."""
    try:
        yield
    except BaseException:
        remove(run, force=True)
        console.print(f"nothing was trained; the run {escape(run.name)} is taken away again", highlight=False)
        raise


def _begun(run: Run, parent: Run, checkpoint: Path, recipe: Recipe, found: Sequence[Change]) -> Plan:
    """Everything of the new run but its training; the plan comes last: without one nothing goes on by mistake."""
    place, recipe = place_of(checkpoint), _without_start(recipe)
    run.branched(place.step, file_hash(checkpoint / "manifest.json"))
    run.write_recipe(to_yaml(recipe))
    _take_data(run, parent, recipe, found)
    training = assemble(run, begin=False)
    refuse_other_tokens("the parent", parent, tokenizer_of(parent), training.data.tokenizer)
    model = check_model(replace(recipe, initial={}, freeze=()), training.data)
    check_techniques(recipe, model, detect())
    plan = _planned(parent, recipe, training, place, found)
    check_laid_out(plan, recipe, model, training.data)
    prepared = Prepared(training, _alone(plan, recipe.batch), _here(plan))
    for lost in inherit(prepared, checkpoint, found):
        emit("branch-dropped", f"what does not go on from the parent: {lost}", level="warning", step=place.step)
    checkpoints.save(prepared.state, run.checkpoints, prepared.group, recipe.saving.keep, prepared.weights)
    return run.write_plan(plan)


def _without_start(recipe: Recipe) -> Recipe:
    """What the parent started from may be gone, and is needed only where the objective compares with it."""
    compares = hasattr(build_objective(recipe), "build")
    return replace(recipe, name=None, start=recipe.start if compares else None)


def _take_data(run: Run, parent: Run, recipe: Recipe, found: Sequence[Change]) -> None:
    if any(below(change.path, ("data",)) for change in found):
        prepare(recipe, run)
        return
    for name in _TAKEN:
        if (parent.path / name).is_dir():
            shutil.copytree(parent.path / name, run.path / name)
        elif (parent.path / name).is_file():
            shutil.copy2(parent.path / name, run.path / name)


def _planned(parent: Run, recipe: Recipe, training: Training, place: Place, found: Sequence[Change]) -> Plan:
    plan, fields = whole_plan(parent, recipe.launch), fields_of(found)
    kernels = attention_kernels(training.model, plan.device) if "attention" in fields else ()
    total = plan.steps
    if any(below(change.path, _OTHER_STEPS) for change in found):
        left = replace(place, samples=0) if place_is_lost(found) else place
        otherwise = any(below(change.path, ("batch", "data", "sampling")) for change in found)
        total = total_steps(recipe, left, parent, lambda: training.data.train, otherwise=otherwise)
    if total <= place.step:
        raise ModelwrightError(
            f"nothing is left to train: step {place.step} of {total} is done",
            where="budget",
            remedy=f"give a larger budget: budget.steps={2 * place.step}",
        )
    if not any(below(change.path, ("averaging",)) for change in found):
        check_mean(recipe, place, plan.steps, total, str(parent.path))
    new = revised(plan, recipe.plan, fields, batch=recipe.batch, cluster=detect(), kernels=kernels)
    return replace(new, steps=total, number=1)


def _alone(plan: Plan, batch: int) -> Plan:
    """The plan for one process that only takes over the state."""
    return replace(
        plan,
        workers=1,
        layout={"replicate": 1},
        layouts={},
        micro_batch=batch,
        recompute="none",
        compile=False,
        offload="none",
    )


def _here(plan: Plan) -> Mesh:
    """A world of this process alone: no process group."""
    group = Group(0, 1)
    return Mesh(group, torch.device(plan.device), {"replicate": group})


def _tell(parent: Run, place: Place, own: Recipe, recipe: Recipe, plan: Plan) -> None:
    found = changes(own, recipe)
    listed = ", ".join(f"{change.path}={change.after}" for change in told(found)) or "no other settings"
    what = f"branches off from {parent.path} after step {place.step}, with {listed}; {plan.steps} steps in all"
    plain = [list(change) for change in found]
    emit("branched", what, parent=str(parent.path), step=place.step, total=plan.steps, changes=plain)
    if any(below(change.path, ("seed", "sampling")) for change in found):
        what = "the order of the samples is another from here on: of this pass some may come again, and others never"
        emit("branch-reordered", what, level="warning", step=place.step)
    before = parent.plan()
    if before is not None and (leap := seam(own, recipe, place.step, before.steps, plan.steps)):
        emit("branch-leap", f"the learning rate leaps: {leap}", level="warning", step=place.step)
