"""Means and spreads of columns, chunk by chunk (Chan, Golub and LeVeque 1983)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Sums up rows in float64; NaN counts as missing.

    Attributes:
        count: values seen, ``[columns]``.
        mean: their mean, ``[columns]``; 0 where nothing was seen.
    """

    def __init__(self) -> None:
        self.count: NDArray[Any] = np.zeros(0)
        self.mean: NDArray[Any] = np.zeros(0)
        self._squares: NDArray[Any] = np.zeros(0)

    def add(self, rows: NDArray[np.float64]) -> None:
        """Take ``rows [rows, columns]`` into account."""
        if not self.count.size:
            self.count, self.mean, self._squares = (np.zeros(rows.shape[1]) for _ in range(3))
        there = ~np.isnan(rows)
        count = there.sum(axis=0)
        mean = np.where(there, rows, 0.0).sum(axis=0) / np.maximum(count, 1)
        total = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        with np.errstate(over="ignore", invalid="ignore"):  # the spread is not finite then
            squares = np.where(there, (rows - mean) ** 2, 0.0).sum(axis=0)
            self._squares += squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * count / total
        self.count = self.count + count

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviations (over ``count``, not ``count - 1``), ``[columns]``; 1 where all values are equal,
        not finite where they are too large to be squared.
        """
        spread: NDArray[np.float64] = np.sqrt(self._squares / np.maximum(self.count, 1))
        steady = spread <= 1e-12 * np.abs(self.mean)  # what rounding leaves of a constant
        return np.where(steady, 1.0, spread)
