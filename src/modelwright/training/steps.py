"""The loop: one generator, no callbacks. The caller iterates, and may stop between any two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.errors import RunFailed
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.training.reading import Reading
from modelwright.training.state import State
from modelwright.training.update import Update

Batches = Iterable[list[dict[str, Tensor]]]
MASKED_IN_A_ROW = 25


@dataclass(frozen=True, slots=True)
class Step:
    """One attempted update.

    Attributes:
        number: 1 for the first of the run.
        learning_rate: of the optimizer's first group.
        samples: drawn so far by all workers together.
        seconds: of training so far, over all sittings.
        step_seconds: of this step, waiting for data included; not what the caller does between two steps.
        terms: names of the objective's terms.
    """

    number: int
    learning_rate: float
    samples: int
    seconds: float
    step_seconds: float
    terms: tuple[str, ...]
    reading: Reading

    @property
    def losses(self) -> dict[str, float]:
        """Mean loss over all valid targets of the step, by term."""
        return dict(zip(self.terms, self.reading.values(), strict=False))

    @property
    def gradient_norm(self) -> float:
        """Global norm before clipping."""
        return self.reading.values()[-3]

    @property
    def masked(self) -> bool:
        """Whether the update was left out: non-finite gradients, or no valid target."""
        return self.reading.values()[-2] > 0

    @property
    def valid(self) -> int:
        """Valid targets in the step, over all workers and terms."""
        return int(self.reading.values()[-1])


def steps(update: Update, batches: Batches, state: State, group: Group, stop: Callable[[], bool]) -> Iterator[Step]:
    """Train: yield after each step, with no collective open.

    Args:
        update: program, optimizer, schedule.
        batches: this rank's micro-batches of each step, from ``state.samples`` on.
        state: advanced in place; its ``total`` is what schedules see.
        group: the ranks that train together.
        stop: asked on each rank before each step; when any rank says so, all stop at the same step.

    Raises:
        RunFailed: many steps in a row had non-finite gradients.
    """
    program, agree, guard = update.program, _Agreement(group), _Guard(group)
    update.drop_gradients()  # whatever was computed before is of no step
    before = time.perf_counter()
    for loaded in batches:
        micro_batches = [program.place(batch) for batch in loaded]
        counts, stopping = agree(program.counts(micro_batches), stop())
        if stopping:
            break
        state.seed_step(group.rank)
        rate = update.set_learning_rate(state.step, state.total)
        totals = program.forward_backward(micro_batches, counts)
        program.exchange.before_step()
        losses = _mean(totals, counts, group)
        valid = torch.stack(list(counts.values())).sum()
        norm, masked = update.apply(valid)
        reading = Reading([*losses.values(), norm, masked, valid])
        now = time.perf_counter()
        state.advance(seconds=now - before)
        step = Step(state.step, rate, state.samples, state.seconds, now - before, tuple(losses), reading)
        guard.watch(step)
        yield step
        before = time.perf_counter()  # evaluating, saving and whatever the caller does is not training
    guard.finish()


def _mean(totals: Mapping[str, Tensor], counts: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    terms = sorted(totals)  # ranks may have met the terms in different orders
    packed = torch.stack([totals[term] for term in terms])
    group.all_reduce(packed)
    return {term: total / counts[term].clamp(min=1) for term, total in zip(terms, packed, strict=True)}


class _Agreement:
    """Sums counts over the ranks; the wish to stop rides along, so that all of them see the same answer.

    An accelerator is not waited for: there the answer is read, by every rank alike, one step later.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._earlier: Reading | None = None

    def __call__(self, counts: Mapping[str, Tensor], stop: bool) -> tuple[dict[str, Tensor], bool]:
        if self._group.size == 1:
            return dict(counts), stop
        terms = sorted(counts)
        packed = torch.stack([counts[term].double() for term in terms])
        packed = torch.cat([packed, packed.new_full((1,), float(stop))])
        self._group.all_reduce(packed)
        now = Reading([packed[-1]])
        answer, self._earlier = (self._earlier, now) if packed.is_cuda else (now, None)
        return dict(zip(terms, packed, strict=False)), answer is not None and answer.values()[0] > 0


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
        if self._pending is not None:
            self._judge(self._pending)
        self._pending = None

    def _judge(self, step: Step) -> None:
        if not step.masked:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        reason = "no valid targets" if step.valid == 0 else "a non-finite gradient"
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
