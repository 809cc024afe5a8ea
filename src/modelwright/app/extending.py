"""A run that is to end later, or sooner: its new number of steps, and what its schedule makes of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.app.bearing import rate_schedules
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import read_json
from modelwright.data import Dataset
from modelwright.optim import Schedule
from modelwright.optim.schedules.building import built
from modelwright.optim.schedules.shape import steps_of as steps_until
from modelwright.recipe import Recipe
from modelwright.recipe.own import build_schedule
from modelwright.runs import Run
from modelwright.training.budget import steps_of

LEAP = 2.0
"""A learning rate that would leap to more than so many times what it was ends the thought of one schedule."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run stands, as its checkpoint says.

    Attributes:
        step, samples, seconds: as in :class:`modelwright.training.state.State`.
        parts: the further numbers by name.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    parts: dict[str, Any]


def place_of(checkpoint: Path | None) -> Place:
    """Where the run stood when it wrote ``checkpoint``; the beginning where there is none."""
    if checkpoint is None:
        return Place(parts={})
    numbers = read_json(checkpoint / "state.json")
    kept = {name: numbers[name] for name in ("step", "samples", "seconds")}
    return Place(**kept, parts=numbers.get("parts", {}))


def total_steps(recipe: Recipe, place: Place, run: Run, data: Callable[[], Dataset], *, otherwise: bool = False) -> int:
    """The steps in all that the recipe's budget, which counts from the beginning of the run, buys.

    Args:
        recipe: by which it goes on.
        place: where it stands.
        run: which has measured its steps.
        data: opens the training data; asked for budgets in samples, tokens and epochs only.
        otherwise: whether batch or data are others from here on.

    Raises:
        ModelwrightError: it is used up already, or cannot be turned into steps.
    """
    total = _total(recipe, place, run, data, otherwise)
    if total > place.step:
        return total
    raise ModelwrightError(
        f"{place.step} steps are done, and this budget ends at {total}",
        where="budget",
        remedy=f"a budget counts from the beginning of the run: budget.steps={place.step + max(1000, place.step)}",
    )


def _total(recipe: Recipe, place: Place, run: Run, data: Callable[[], Dataset], otherwise: bool) -> int:
    budget, batch = recipe.budget, recipe.batch
    if budget.steps is not None:
        return budget.steps
    if budget.time is not None:
        return place.step + round(max(0.0, budget.time - place.seconds) / _step_seconds(run))
    if not otherwise:
        return steps_of(budget, batch=batch, dataset=data())
    left = steps_of(budget, batch=1, dataset=data()) - place.samples
    return place.step + max(0, -(-left // batch))


def _step_seconds(run: Run) -> float:
    seconds = run.record.summary.get("step_seconds")
    if isinstance(seconds, (int, float)) and seconds > 0:
        return float(seconds)
    raise ModelwrightError(
        "how long a step takes is not known, because the run has not recorded one",
        where="budget.time",
        remedy="give the budget in steps",
    )


def check_extension(recipe: Recipe, place: Place, old: int, new: int, run: str) -> None:
    """Refuse another number of steps where going on would be something else without a word; else tell what it does.

    Raises:
        ModelwrightError: the run has stopped early, its mean of weights has begun, or its learning rate would leap.
    """
    check_patience(recipe, place, run)
    check_mean(recipe, place, old, new, run)
    leaps = find_leaps(recipe, place.step, old, new)
    if high := [leap for leap in leaps if leap.high]:
        raise _leap_refused(high[0], old, new, run)
    _tell(leaps, place.step, old, new)


@dataclass(frozen=True, kw_only=True)
class Leap:
    """What another number of steps does to one schedule.

    Attributes:
        where: the schedule's place in the recipe.
        rate: whether it is one of a learning rate.
        step: after so many steps.
        before, after: its factor at the last step done, and at the next one.
    """

    where: str
    rate: bool
    step: int
    before: float
    after: float

    @property
    def high(self) -> bool:
        """Whether the learning rate leaps to more than ``LEAP`` times what it was."""
        return self.rate and self.after > LEAP * self.before

    def __str__(self) -> str:
        return f"the factor of '{self.where}' is {self.before:.3g} at step {self.step} and {self.after:.3g} at the next"


def find_leaps(recipe: Recipe, step: int, old: int, new: int) -> list[Leap]:
    """The schedules that take another course in what is past; where no step is done, none does.

    Args:
        recipe: whose schedules.
        step: so many are done.
        old, new: steps in all, before and from there on.
    """
    found = []
    for where, rate, technique in _schedules(recipe):
        schedule = built(technique)
        if _differs(schedule, step, old, new):
            before, after = schedule.factor(step - 1, old), schedule.factor(min(step, new - 1), new)
            found.append(Leap(where=where, rate=rate, step=step, before=before, after=after))
    return found


def seam(own: Recipe, recipe: Recipe, step: int, old: int, new: int) -> Leap | None:
    """The first learning rate that leaps where a run goes on by another recipe, or for another number of steps.

    Args:
        own: the recipe so far.
        recipe: from here on.
        step: so many steps are done.
        old, new: steps in all, before and from here on.
    """
    before, after = dict(rate_schedules(own)), dict(rate_schedules(recipe))
    for where in before.keys() & after.keys() if step else ():
        left, right = built(before[where]).factor(step - 1, old), built(after[where]).factor(min(step, new - 1), new)
        leap = Leap(where=where, rate=True, step=step, before=left, after=right)
        if leap.high:
            return leap
    return None


def _schedules(recipe: Recipe) -> Iterator[tuple[str, bool, object]]:
    for where, technique in rate_schedules(recipe):
        yield where, True, technique
    for where in ("momentum_schedule", "weight_decay_schedule"):
        if (technique := getattr(recipe, where)) is not None:
            yield where, False, build_schedule(technique)


def _differs(schedule: Schedule, step: int, old: int, new: int) -> bool:
    return any(schedule.factor(number, old) != schedule.factor(number, new) for number in range(step))


def check_patience(recipe: Recipe, place: Place, run: str) -> None:
    """Refuse to go on with what has stopped early: it would stop at once.

    Raises:
        ModelwrightError: its score had not gained for as long as it may.
    """
    without_gain = place.parts.get("patience", {}).get("without_gain", 0)
    if recipe.evaluation.patience is not None and without_gain >= recipe.evaluation.patience:
        raise ModelwrightError(
            f"the run has ended early: its score had not gained in {without_gain} evaluations, so a larger budget "
            "changes nothing",
            where="evaluation.patience",
            remedy=f"train on in a new run that waits longer: modelwright branch {run} evaluation.patience=N",
        )


def check_mean(recipe: Recipe, place: Place, old: int, new: int, run: str) -> None:
    """Refuse a mean over the last part of a run, which has begun, and would take in weights of the middle.

    Raises:
        ModelwrightError: with the steps after which it begins.
    """
    start = getattr(recipe.averaging, "start", None)
    if not isinstance(start, (int, float)) or steps_until(start, old) == steps_until(start, new):
        return
    if min(steps_until(start, old), steps_until(start, new)) < place.step:
        raise ModelwrightError(
            f"the mean of the weights begins after step {steps_until(start, old)} of {old}, but after step "
            f"{steps_until(start, new)} of {new}, and {place.step} are done: it would be neither",
            where="averaging.start",
            remedy=f"train on in a new run: modelwright branch {run} averaging.start=STEP",
        )


def _leap_refused(leap: Leap, old: int, new: int, run: str) -> ModelwrightError:
    return ModelwrightError(
        f"with {new} steps instead of {old} the learning rate would leap: {leap}. That is not the longer run, whose "
        "rate would not have fallen yet, but a restart that undoes what the fall has settled",
        where="budget",
        remedy="train on in a new run, from a checkpoint before the fall (--step N) or with a schedule of its own: "
        f"modelwright branch {run} budget.steps={new} schedule=constant optimizer.lr=RATE",
    )


def _tell(leaps: Sequence[Leap], step: int, old: int, new: int) -> None:
    told = f"the run ends after {new} steps instead of {old}"
    if not leaps:
        what = f"{told}; so far its learning rate was that of a run of {new} steps, so it is that run in every bit"
        emit("extended", what, step=step, total=new, before=old, exact=True)
        return
    what = f"{told}; from step {step + 1} on its schedule sees {new}: {'; '.join(map(str, leaps))}"
    emit("extended", what, level="warning", step=step, total=new, before=old, exact=False)
