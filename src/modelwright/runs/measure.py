"""What a run's metrics say about its speed and memory: the measured side of predicted beside measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelwright.runs.metrics import Row

Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians and totals over a run's steps; NaN where nothing was measured.

    Attributes:
        steps: the last step's number.
        seconds: training time.
        step_seconds: median of one step.
        peak_bytes: largest memory of rank 0.
        samples_per_second, tokens_per_second: medians, all workers together.
        samples, tokens: how many were seen.
    """

    steps: float
    seconds: float
    step_seconds: float
    peak_bytes: float
    samples_per_second: float
    tokens_per_second: float
    samples: float
    tokens: float


def measure(steps: list[Row]) -> Measured:
    """Summarise rows of steps."""
    return Measured(
        steps=_largest(column(steps, "step")),
        seconds=_largest(column(steps, "seconds")),
        step_seconds=_median(column(steps, "step_seconds")),
        peak_bytes=_largest(column(steps, "memory_bytes")),
        samples_per_second=_median(rate(steps, "samples")),
        tokens_per_second=_median(rate(steps, "tokens")),
        samples=_largest(column(steps, "samples")),
        tokens=_largest(column(steps, "tokens")),
    )


def column(rows: Iterable[Row], name: str) -> Series:
    """One value a row as float64 [rows], NaN where a row has none."""
    return np.array([_float(row.get(name)) for row in rows], dtype=np.float64)


def rate(steps: list[Row], name: str) -> Series:
    """Increase per training second of a cumulative value [rows]; NaN where time or value stands still.

    The first row is measured against the zero it started from.
    """
    seconds, amounts = column(steps, "seconds"), column(steps, name)
    passed, gained = np.diff(seconds, prepend=0.0), np.diff(amounts, prepend=0.0)
    moving = (passed > 0) & (gained > 0)
    return np.divide(gained, passed, out=np.full_like(passed, np.nan), where=moving)


def smoothed(values: Series) -> Series:
    """Running mean over a fiftieth of the values, centred, non-finite ones left out [values]."""
    reach = max(1, len(values) // 100)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    seen = counts[high] - counts[low]
    means: Series = np.divide(sums[high] - sums[low], seen, out=np.full(len(values), np.nan), where=seen > 0)
    return means


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _median(values: Series) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _largest(values: Series) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else float("nan")
