"""Which overrides a run that goes on can bear: those that leave alone what is learnt, and from which samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelwright.base.errors import ModelwrightError, raise_all
from modelwright.base.plan import Plan
from modelwright.optim.schedules.building import built, remembering
from modelwright.recipe import Loaded, Recipe
from modelwright.recipe.changes import Change, below, told
from modelwright.recipe.own import build_schedule

SAFE = (
    *("plan.workers", "plan.threads", "plan.micro_batch", "plan.attention", "plan.layout"),
    *("plan.recompute", "plan.compile", "plan.offload"),
    *("saving", "watch", "launch", "budget"),
    *("data.cache", "data.cache_bytes"),
)
LOOKING = ("evaluation.every", "evaluation.samples", "evaluation.metrics")
"""Safe too, unless something that is learnt hangs on the scores."""

_OTHER_SAMPLES = "from there on other samples would be drawn, some again and others never"
_OTHER_RULE = "from there on the weights would be updated by another rule"
_REASONS = {
    "seed": f"everything random follows from it: {_OTHER_SAMPLES}",
    "batch": f"the steps would be others: {_OTHER_SAMPLES}",
    "sampling": _OTHER_SAMPLES,
    "data": "the saved place in the data means nothing in other data",
    "model": "the saved weights are of the model as it was",
    "initial": "the weights have begun long ago",
    "start": "the weights have begun long ago",
    "freeze": "from there on other parameters would be trained",
    "objective": "from there on something else would be minimised",
    "plan.precision": "it changes what is computed, not only how",
    "plan.exchange": "what a compression leaves out would be other gradients",
    "evaluation": "it decides when training ends, and which weights are kept",
    **dict.fromkeys(("optimizer", "clip", "groups", "updates", "averaging", "loss_scale"), _OTHER_RULE),
    **dict.fromkeys(("schedule", "momentum_schedule", "weight_decay_schedule"), _OTHER_RULE),
}


def check_bearable(loaded: Loaded[Recipe], found: Sequence[Change], plan: Plan, run: str) -> None:
    """Refuse what would go on with something else under the same name.

    Args:
        loaded: the recipe with the overrides.
        found: where it differs from the run's own.
        plan: of the run.
        run: how the user names it.

    Raises:
        ModelwrightError, Mistakes: each with its reason, and what to do instead.
    """
    refused = [change for change in found if not _bearable(change, loaded.recipe, plan)]
    raise_all([_refusal(change, loaded, run) for change in told(refused)])


def listens(recipe: Recipe) -> bool:
    """Whether something that is learnt hangs on the scores of the way: when training ends, or a learning rate."""
    return recipe.evaluation.patience is not None or any(
        remembering(built(schedule)) is not None for _, schedule in rate_schedules(recipe)
    )


def rate_schedules(recipe: Recipe) -> Iterator[tuple[str, object]]:
    """The configurations of the schedules of learning rates, and where they stand in the recipe."""
    if not recipe.updates:
        yield "schedule", build_schedule(recipe.schedule)
    for name, settings in recipe.updates.items():
        own = settings.schedule is not None
        where = f"updates.{name}.schedule" if own else "schedule"
        yield where, build_schedule(settings.schedule if own else recipe.schedule)


def _bearable(change: Change, recipe: Recipe, plan: Plan) -> bool:
    if change.path == "plan.precision":  # to write out what the planner chose changes nothing
        return bool(change.after == plan.precision)
    return below(change.path, SAFE) or (below(change.path, LOOKING) and not listens(recipe))


def _refusal(change: Change, loaded: Loaded[Recipe], run: str) -> ModelwrightError:
    return ModelwrightError(
        f"'{change.path}' of a run that goes on stays {_shown(change.before)}: {_reason(change.path)}",
        where=loaded.where(change.path),
        remedy=_remedy(change, run),
    )


def _reason(path: str) -> str:
    if path == "name":
        return "a run is named by its folder"
    if path == "plan.measure":
        return "a run that goes on is not measured anew"
    if below(path, LOOKING):
        return "here the scores decide when training ends, or how fast it learns"
    parts = [path.rsplit(".", count)[0] for count in range(path.count(".") + 1)]
    return next((_REASONS[part] for part in parts if part in _REASONS), "it would become another run")


def _remedy(change: Change, run: str) -> str:
    if change.path == "name":
        return "rename the folder"
    if change.path == "plan.measure":
        return "leave it out, and give the values themselves, such as plan.threads=2"
    return f"leave it out; or train on in a new run: modelwright branch {run} {change.path}={_shown(change.after)}"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value}"
