"""How many samples a step of Poisson sampling has: a binomial number, by inversion of its distribution."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from modelwright.data.order import Words

RARE = 1e-16
"""Most that the chance of a number beyond ``Sizes.most`` is, and of one below ``Sizes.least``."""


class Sizes:
    """Numbers of successes in ``length`` trials that succeed with probability ``batch / length``.

    Only numbers from ``least`` to ``most`` are drawn: those beyond are rarer than :data:`RARE` on either side, by
    Chernoff's bound. With rounding, the distribution is within 1e-12 of the binomial one in total variation for batches
    up to a million. It takes about ``17 * sqrt(batch)`` numbers of memory, whatever the length. No generator of a
    library is used: their binomial numbers may change between versions.

    Args:
        length: trials, up to 2**62.
        batch: the mean, from 1 to ``length``.
    """

    def __init__(self, length: int, batch: int) -> None:
        self.least, self.most = _ends(length, batch)
        up = _ratios(np.arange(batch, self.most), length, batch)
        down = 1 / _ratios(np.arange(self.least, batch), length, batch)[::-1]
        beside = np.concatenate([np.cumprod(down)[::-1], [1.0], np.cumprod(up)])  # by the probability of the mean
        cumulated = np.cumsum(beside)
        self._cumulated = cumulated / cumulated[-1]

    def drawn(self, words: Words) -> NDArray[np.int64]:
        """The number for each of ``words`` of 64 random bits, of the same shape."""
        uniform = (words >> np.uint64(11)) * 2.0**-53
        return self.least + np.searchsorted(self._cumulated, uniform, side="right")


def most(length: int, batch: int) -> int:
    """The largest number that :class:`Sizes` draws."""
    return _ends(length, batch)[1]


def _ends(length: int, batch: int) -> tuple[int, int]:
    rare = math.log(RARE)
    least = bisect_left(range(batch), True, key=lambda size: _chance(length, batch, size) >= rare)
    more = bisect_left(range(batch, length), True, key=lambda size: _chance(length, batch, size + 1) < rare)
    return least, batch + more


def _chance(length: int, batch: int, size: int) -> float:
    """Logarithm of Chernoff's bound on the chance of numbers from ``size`` on, away from the mean.

    That is -length * KL(size / length || batch / length), written so that nothing cancels for any length.
    """
    if batch == length:
        return 0.0 if size == batch else -math.inf
    away = size - batch
    there = size * math.log1p(away / batch) if size else 0.0
    rest = (length - size) * math.log1p(-away / (length - batch)) if size < length else 0.0
    return -(there + rest)


def _ratios(sizes: NDArray[np.int64], length: int, batch: int) -> NDArray[np.float64]:
    """Probabilities of ``sizes + 1`` over those of ``sizes``."""
    return (length - sizes) / (sizes + 1) * (batch / max(length - batch, 1))
