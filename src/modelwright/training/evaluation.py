"""Held-out evaluation: the same metric objects everywhere, exact over any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.data import Dataset
from modelwright.data.batches import read
from modelwright.data.order import Order
from modelwright.models.modes import evaluating
from modelwright.objectives import METRICS, Metric, Objective
from modelwright.parallel.program import LocalProgram, check_terms


def evaluate(
    program: LocalProgram,
    dataset: Dataset,
    metrics: Sequence[str],
    group: Group,
    *,
    share: Group | None = None,
    micro_batch: int,
    samples: int | None = None,
) -> dict[str, float]:
    """Loss and metrics over a data set, each rank taking a part of it; a collective.

    Args:
        program: model and objective; dropout is off while it is evaluated.
        metrics: names of the family of metrics, or import paths.
        group: all ranks.
        share: those among which the samples are shared out; all of them by default.
        micro_batch: samples of one forward.
        samples: only so many, always the same ones, drawn evenly; ``None`` for all.

    Returns:
        ``loss`` (mean over all valid targets, coefficients applied) and each metric by name.
    """
    scores = evaluate_unless(
        lambda: False, program, dataset, metrics, group, share=share, micro_batch=micro_batch, samples=samples
    )
    assert scores is not None
    return scores


def evaluate_unless(
    stop: Callable[[], bool],
    program: LocalProgram,
    dataset: Dataset,
    metrics: Sequence[str],
    group: Group,
    *,
    share: Group | None = None,
    micro_batch: int,
    samples: int | None = None,
) -> dict[str, float] | None:
    """The same, unless ``stop``, which is asked before each forward, says so on any rank: then ``None``, soon."""
    program.synchronise()
    share = share or group
    parts = np.array_split(_positions(len(dataset), samples), share.size)
    batches = _batched(parts, share.rank, micro_batch, in_step=program.in_step)
    tally, stopping = _Tally(program, metrics), False
    with evaluating(program.model), torch.no_grad():
        for positions, counts in batches:
            enter(Phase.EVALUATE)
            stopping = stop()
            if program.in_step:
                stopping = any(group.gather(stopping))
            if stopping:
                break
            tally.add(program.place(read(dataset, positions)), counts)
    return None if any(group.gather(stopping)) else tally.result(group)


def _batched(
    parts: Sequence[np.ndarray], rank: int, micro_batch: int, *, in_step: bool
) -> Iterator[tuple[np.ndarray, bool]]:
    """Positions of each forward of a rank, and whether they count.

    Where ranks compute ``in_step``, one that has nothing left goes along with what does not count.
    """
    mine = parts[rank]
    for start in range(0, len(mine), micro_batch):
        yield mine[start : start + micro_batch], True
    if in_step:
        most, done = (-(-len(part) // micro_batch) for part in (max(parts, key=len), mine))
        idle = parts[0][:1]
        for _ in range(most - done):
            yield idle, False


def _positions(length: int, samples: int | None) -> np.ndarray:
    if length == 0:
        raise ModelwrightError("there is nothing held out to evaluate", remedy="hold out a larger part of the data")
    if samples is None or samples >= length:
        return np.arange(length)
    return np.sort(Order(length, seed=0)(np.arange(samples)))


class _Tally:
    """Sums of one evaluation on this rank."""

    def __init__(self, program: LocalProgram, metrics: Sequence[str]) -> None:
        self._program = program
        self._objective: Objective = getattr(program.objective, "scored", program.objective)
        self._metrics: dict[str, Metric] = {name: METRICS.resolve(name)() for name in metrics}
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, batch: dict[str, torch.Tensor], counted: bool) -> None:
        objective = self._objective
        with self._program.surrounded(), self._program.computing():  # outputs may be features, without the head yet
            outputs = self._program.forward(batch)
            if outputs is None or not counted:
                return
            counts, totals = objective.counts(batch), self._program.whole(objective.loss(outputs, batch))
            for metric in self._metrics.values():
                metric.update(outputs, batch)
        check_terms(counts, totals)
        if not self._program.contributes:
            return
        for term, count in counts.items():
            self._accumulate(f"count/{term}", count)
        for term, total in totals.items():
            self._accumulate(f"total/{term}", total)

    def result(self, group: Group) -> dict[str, float]:
        sums = _added(group.gather({name: value.cpu() for name, value in self._sums.items()}))
        result = {"loss": self._loss(sums)}
        for name, metric in self._metrics.items():
            told = metric if self._program.contributes else METRICS.resolve(name)()  # others have seen the same
            states = group.gather(self._program.whole(told.state()))
            merged = METRICS.resolve(name)()
            for state in states:
                other = METRICS.resolve(name)()
                other.load(state)
                merged.merge(other)
            result[name] = merged.compute()
        return result

    def _accumulate(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _loss(self, sums: Mapping[str, torch.Tensor]) -> float:
        coefficients = self._objective.coefficients
        terms = [name.removeprefix("total/") for name in sums if name.startswith("total/")]
        return sum(
            coefficients.get(term, 1.0) * float(sums[f"total/{term}"]) / max(float(sums[f"count/{term}"]), 1.0)
            for term in terms
        )


def _added(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    sums: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums
