"""Which file, in which runtime, precision and with how many threads: by measuring on this machine, never by rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.export.runtimes import RUNTIMES, Runner, Runtime, installed_for
from modelwright.export.timing import Timing, measure

MARGIN = 0.02
"""The part of a time below which two measured times are the same."""

_MANY = 8  # threads from which on not every power of two is tried


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to compute an exported model.

    Attributes:
        file: what is computed.
        runtime: a name of :data:`~modelwright.export.runtimes.RUNTIMES`.
        threads: that compute.
        precision: in which the runtime computes.
        runner: the opened file.
    """

    file: Path
    runtime: str
    threads: int
    precision: str = "fp32"
    runner: Runner

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.file.name} in {self.runtime}, {self.precision}, threads {self.threads}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and what it was chosen from.

    Attributes:
        chosen: the fastest of those that are nowhere slower than the baseline.
        baseline: what it must not be slower than, in float32.
        timings: by batch size and name.
    """

    chosen: Candidate
    baseline: Candidate
    timings: Mapping[int, Mapping[str, Timing]] = field(default_factory=dict)

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Medians by batch size and name, for JSON."""
        return {
            str(batch): {name: round(timing.seconds * 1e3, 4) for name, timing in timings.items()}
            for batch, timings in self.timings.items()
        }


def candidates(files: Sequence[Path], *, threads: Sequence[int] | None = None, trust: bool = False) -> list[Candidate]:
    """Each file in each of its runtimes that is installed, in each of their precisions, with each number of threads.

    Args:
        files: exported ones.
        threads: numbers to try; ``None``: :func:`thread_numbers`.
        trust: open a ``.pt2`` from elsewhere.

    Returns:
        Those that can be opened; an event tells of others.
    """
    numbers = thread_numbers() if threads is None else threads
    opened = (
        _opened(file, name, precision, number, trust)
        for file in files
        for name in installed_for(file)
        for precision in RUNTIMES.resolve(name)().precisions
        for number in numbers
    )
    return [each for each in opened if each is not None]


def thread_numbers() -> list[int]:
    """1, 2, 4, ... up to as many as torch uses here, which is the last."""
    most = torch.get_num_threads()
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*powers, most] if most < _MANY else [1, *powers[2:], most]


def choose(
    options: Sequence[Candidate],
    batches: Mapping[int, Mapping[str, Tensor]],
    *,
    beside: Mapping[str, Runner] | None = None,
    budget: float = 10.0,
) -> Choice:
    """Measure the candidates side by side on each batch, and take the fastest on the whole.

    The baseline is the first of the files in its first runtime, in float32 with all threads. Only what is slower than
    that for no batch size, by more than two parts in a hundred, is taken, and only where it is faster on the whole by
    more than that; "on the whole" is the geometric mean over batch sizes.

    Args:
        options: the candidates, at least one of them in float32.
        batches: inputs by name, by batch size.
        beside: measured too, for comparison; never chosen.
        budget: seconds of measuring for each batch size.

    Raises:
        ModelwrightError: there is nothing to choose from, or nothing to measure with.
    """
    exact = [each for each in options if each.precision == "fp32"]
    if not exact or not batches:
        raise ModelwrightError("there is nothing to measure", where="export.choice", remedy="export a file first")
    first = max(
        (each for each in exact if (each.file, each.runtime) == (exact[0].file, exact[0].runtime)),
        key=lambda each: each.threads,
    )
    others = dict(beside or {})
    timings = {size: measure(_computations(options, others, batch), budget=budget) for size, batch in batches.items()}
    ratios = {each.name: [of[each.name].ratio(of[first.name]) for of in timings.values()] for each in options}
    best = _best(options, first, ratios)
    times = 1 / _mean(ratios[best.name])
    emit("runtime-chosen", f"{best.name}: {times:.2f} times as fast as {first.name}", ratios=ratios)
    return Choice(chosen=best, baseline=first, timings=timings)


def _opened(file: Path, name: str, precision: str, threads: int, trust: bool) -> Candidate | None:
    runtime: Runtime = RUNTIMES.resolve(name)()
    try:
        runner = runtime.open(file, threads=threads, precision=precision, trust=trust)
    except ModelwrightError as error:
        emit("runtime-refused", f"{name} is not to choose from: {error.what}", level="warning", runtime=name)
        return None
    return Candidate(file=file, runtime=name, threads=threads, precision=precision, runner=runner)


def _best(options: Sequence[Candidate], first: Candidate, ratios: Mapping[str, Sequence[float]]) -> Candidate:
    allowed = [each for each in options if max(ratios[each.name]) <= 1 + MARGIN]
    best = min((first, *allowed), key=lambda each: _mean(ratios[each.name]))
    return best if _mean(ratios[best.name]) < 1 - MARGIN else first


def _computations(
    options: Sequence[Candidate], beside: Mapping[str, Runner], batch: Mapping[str, Tensor]
) -> dict[str, Callable[[], object]]:
    runners = {**{each.name: each.runner for each in options}, **beside}
    return {name: partial(runner.run, batch) for name, runner in runners.items()}


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
