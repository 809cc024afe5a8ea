"""The loop: one generator, no callbacks. The caller iterates, and may stop between any two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.heap import kept_heap
from modelwright.base.phases import Phase, enter
from modelwright.training.reading import Reading
from modelwright.training.state import State
from modelwright.training.update import Applied, Update

Batches = Iterable[list[dict[str, Tensor]]]
Counts = Mapping[str, Mapping[str, Tensor]]
"""Valid targets by update and term."""

MASKED_IN_A_ROW = 25


@dataclass(frozen=True, slots=True)
class Step:
    """One attempted step: each of its updates, once.

    Attributes:
        number: 1 for the first of the run.
        learning_rates: of the first group of each update's optimizer, by update.
        samples: drawn so far by all workers together.
        seconds: of training so far, over all sittings.
        step_seconds: of this step, waiting for data included; not what the caller does between two steps.
        terms: names of the objective's terms.
    """

    number: int
    learning_rates: dict[str, float]
    samples: int
    seconds: float
    step_seconds: float
    terms: tuple[str, ...]
    reading: Reading

    @property
    def learning_rate(self) -> float:
        """That of the first update."""
        return next(iter(self.learning_rates.values()))

    @property
    def losses(self) -> dict[str, float]:
        """Mean loss over all valid targets of the step, by term; made anew in each call."""
        return dict(zip(self.terms, self.reading.values(), strict=False))

    @property
    def gradient_norms(self) -> dict[str, float]:
        """Global norm before clipping, by update."""
        return dict(zip(self.learning_rates, self._of_updates(0), strict=True))

    @property
    def gradient_norm(self) -> float:
        """That of the first update."""
        return self._of_updates(0)[0]

    @property
    def masked(self) -> bool:
        """Whether an update was left out: non-finite gradients, or no valid target."""
        return any(flag > 0 for flag in self._of_updates(1))

    @property
    def valid(self) -> int:
        """Valid targets in the step, over all workers and terms."""
        return int(sum(self._of_updates(2)))

    def loss(self, coefficients: Mapping[str, float]) -> float:
        """The sum of :attr:`losses` with the objective's ``coefficients``, which was minimised; NaN: nothing was."""
        if self.valid <= 0:
            return math.nan
        return sum(coefficients.get(self._term(name), 1.0) * value for name, value in self.losses.items())

    @property
    def idle(self) -> bool:
        """Whether an update was left out for want of a valid target."""
        return min(self._of_updates(2)) <= 0

    def _term(self, name: str) -> str:
        """Without the update's name, where it stands before that of the term."""
        update, _, term = name.partition("/")
        return term if term and update in self.learning_rates else name

    def _of_updates(self, place: int) -> list[float]:
        return self.reading.values()[len(self.terms) + place :: _NUMBERS]


_NUMBERS = 3  # Of each update: norm, whether masked, valid targets.


def steps(
    updates: Sequence[Update],
    batches: Batches,
    state: State,
    group: Group,
    stop: Callable[[], bool],
    place: int | None = None,
) -> Generator[Step, None, None]:
    """Train: yield after each step, with no collective open.

    Args:
        updates: program, optimizer and schedule of each; they act one after another on the same samples.
        batches: this rank's micro-batches of each step, from ``state.samples`` on.
        state: advanced in place; its ``total`` is what schedules see.
        group: the ranks that train together.
        stop: asked on each rank before each step; when any rank says so, all stop at the same step.
        place: of this rank among those with other samples, by which it draws random numbers; by default its rank.

    Raises:
        RunFailed: many steps in a row had non-finite gradients.
    """
    with kept_heap(updates[0].program.device.type == "cpu"):
        yield from _steps(updates, batches, state, group, stop, group.rank if place is None else place)


def _steps(
    updates: Sequence[Update], batches: Batches, state: State, group: Group, stop: Callable[[], bool], place: int
) -> Generator[Step, None, None]:
    agree, guard = _Agreement(group, updates[0].program.device), _Guard(group)
    for update in updates:
        update.drop_gradients()  # whatever was computed before is of no step
    before = time.perf_counter()
    enter(Phase.DATA, state.step + 1)
    try:
        for loaded in batches:
            due = [update for update in updates if state.step % update.every == 0]
            micro_batches = [updates[0].program.place(batch) for batch in loaded]
            enter(Phase.EXCHANGE)
            counts, stopping = agree({update.name: update.program.counts(micro_batches) for update in due}, stop())
            if stopping:
                break
            state.seed_step(place)
            done = {
                update.name: update(micro_batches, counts[update.name], group, state.step, state.total)
                for update in due
            }
            state.average()
            now = time.perf_counter()
            state.advance(seconds=now - before)
            step = _step(done, updates, state, now - before)
            guard.watch(step)
            enter(Phase.BETWEEN)
            yield step
            enter(Phase.DATA, state.step + 1)
            before = time.perf_counter()  # evaluating, saving and whatever the caller does is not training
        for update in updates:
            update.settle(group)
    finally:  # also where the caller stops, or a step fails: the one before may not have been judged yet
        guard.finish()


def _step(done: Mapping[str, Applied], updates: Sequence[Update], state: State, seconds: float) -> Step:
    losses = _named({name: applied.losses for name, applied in done.items()}, updates)
    numbers = [number for applied in done.values() for number in (applied.norm, applied.masked, applied.valid)]
    rates = {name: applied.learning_rate for name, applied in done.items()}
    reading = Reading([*losses.values(), *numbers])
    return Step(state.step, rates, state.samples, state.seconds, seconds, tuple(losses), reading)


def _named(losses: Mapping[str, Mapping[str, Tensor | float]], updates: Sequence[Update]) -> dict[str, Tensor | float]:
    """Losses by term; a term that several updates minimise has one entry for each, ``UPDATE/TERM``."""
    if len(updates) == 1:
        return dict(next(iter(losses.values())))
    chosen = [update.program.terms for update in updates]
    return {
        f"{name}/{term}" if sum(terms is None or term in terms for terms in chosen) > 1 else term: value
        for name, by_term in losses.items()
        for term, value in by_term.items()
    }


class _Agreement:
    """Sums counts over the ranks; the wish to stop rides along, so that all of them see the same answer.

    A rank that has no sample of a step knows no terms: they are asked for once, in the first step.
    An accelerator is not waited for: there the answer is read, by every rank alike, one step later.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self._group, self._device = group, device
        self._terms: dict[str, list[str]] = {}
        self._earlier: Reading | None = None

    def __call__(self, counts: Counts, stop: bool) -> tuple[Counts, bool]:
        if self._group.size == 1:
            return counts, stop
        places = [(update, term) for update, mine in counts.items() for term in self._known(update, mine)]
        none = torch.zeros((), dtype=torch.float64, device=self._device)
        packed = torch.stack([*(counts[update].get(term, none).to(none) for update, term in places), none + stop])
        self._group.all_reduce(packed)
        now = Reading([packed[-1]])
        answer, self._earlier = (self._earlier, now) if packed.is_cuda else (now, None)
        summed: dict[str, dict[str, Tensor]] = {update: {} for update in counts}
        for (update, term), value in zip(places, packed, strict=False):
            summed[update][term] = value
        return summed, answer is not None and answer.values()[0] > 0

    def _known(self, update: str, mine: Mapping[str, Tensor]) -> list[str]:
        """The terms of an update, the same on every rank."""
        if not self._terms.get(update):
            ranks = self._group.gather(sorted(mine))
            self._terms[update] = sorted({term for rank in ranks for term in rank})
        if new := sorted(set(mine) - set(self._terms[update])):
            raise ModelwrightError(
                f"the objective counts the term '{new[0]}', which it did not count in the first batches",
                where="objective",
                remedy="let counts() return the same terms for every batch, with a count of 0 where one is idle",
            )
        return self._terms[update]


class _Guard:
    """Tells of every masked step and gives up after many in a row; a step late where reading would wait."""

    def __init__(self, group: Group) -> None:
        self._speaks = group.rank == 0
        self._pending: Step | None = None
        self._in_a_row = 0

    def watch(self, step: Step) -> None:
        if step.reading.immediate:
            return self._judge(step)
        self.finish()
        self._pending = step

    def finish(self) -> None:
        pending, self._pending = self._pending, None  # it may raise, and is not asked twice
        if pending is not None:
            self._judge(pending)

    def _judge(self, step: Step) -> None:
        if not step.masked:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        reason = _reason(step)
        if self._speaks:
            emit(
                "step-masked",
                f"step {step.number} was left out: {reason}",
                level="warning",
                step=step.number,
                losses={term: repr(loss) for term, loss in step.losses.items()},
                gradient_norm=repr(step.gradient_norm),
            )
        if self._in_a_row >= MASKED_IN_A_ROW:
            raise RunFailed(
                f"{self._in_a_row} steps in a row were left out, the last for {reason}",
                where=f"step {step.number}",
                remedy="lower optimizer.lr, lengthen the warm-up, or look for bad values in the data",
            )


def _reason(step: Step) -> str:
    finite = all(math.isfinite(norm) for norm in step.gradient_norms.values())
    reasons = [] if finite else ["a non-finite gradient"]
    return " and ".join([*reasons, *(["no valid targets"] if step.idle else [])])
