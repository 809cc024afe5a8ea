"""Held-out evaluation: the same metric objects everywhere, exact over any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.data import Dataset
from modelwright.data.batches import read
from modelwright.data.order import Order
from modelwright.models.modes import evaluating
from modelwright.objectives import METRICS, Metric
from modelwright.parallel.program import LocalProgram, check_terms


def evaluate(
    program: LocalProgram,
    dataset: Dataset,
    metrics: Sequence[str],
    group: Group,
    *,
    micro_batch: int,
    samples: int | None = None,
) -> dict[str, float]:
    """Loss and metrics over a data set, each rank taking a part of it; a collective.

    Args:
        program: model and objective; dropout is off while it is evaluated.
        metrics: names of the family of metrics, or import paths.
        micro_batch: samples of one forward.
        samples: only so many, always the same ones, drawn evenly; ``None`` for all.

    Returns:
        ``loss`` (mean over all valid targets, coefficients applied) and each metric by name.
    """
    scores = evaluate_unless(lambda: False, program, dataset, metrics, group, micro_batch=micro_batch, samples=samples)
    assert scores is not None
    return scores


def evaluate_unless(
    stop: Callable[[], bool],
    program: LocalProgram,
    dataset: Dataset,
    metrics: Sequence[str],
    group: Group,
    *,
    micro_batch: int,
    samples: int | None = None,
) -> dict[str, float] | None:
    """The same, unless ``stop``, which is asked before each forward, says so on any rank: then ``None``, soon."""
    program.synchronise()
    positions = _positions(len(dataset), samples)
    mine = np.array_split(positions, group.size)[group.rank]
    tally, stopping = _Tally(program, metrics), False
    with evaluating(program.model), torch.no_grad():
        for start in range(0, len(mine), micro_batch):
            enter(Phase.EVALUATE)
            if stopping := stop():
                break
            tally.add(program.place(read(dataset, mine[start : start + micro_batch])))
    return None if any(group.gather(stopping)) else tally.result(group)


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
        self._metrics: dict[str, Metric] = {name: METRICS.resolve(name)() for name in metrics}
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        objective = self._program.objective
        with self._program.computing():  # outputs may be the features of a head that is still to be applied
            outputs = self._program.forward(batch)
            counts, totals = objective.counts(batch), objective.loss(outputs, batch)
            for metric in self._metrics.values():
                metric.update(outputs, batch)
        check_terms(counts, totals)
        for term, count in counts.items():
            self._accumulate(f"count/{term}", count)
        for term, total in totals.items():
            self._accumulate(f"total/{term}", total)

    def result(self, group: Group) -> dict[str, float]:
        sums = _added(group.gather({name: value.cpu() for name, value in self._sums.items()}))
        result = {"loss": self._loss(sums)}
        for name, metric in self._metrics.items():
            states = group.gather(metric.state())
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
        coefficients = self._program.objective.coefficients
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
