"""A histogram that grows with what it sees, and does not depend on the order in which it sees it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modelwright.compression.quantize.encoding import Integers, Scales, scales_of

BINS = 4096  # on each side of 0
_TINY = 2.0**-60


class Histogram:
    """Counts in bins from ``-reach`` to ``reach``, a power of two that is at least the largest number seen.

    When it grows, pairs of bins become one, so that nothing is lost but half of the resolution.

    Attributes:
        counts: float64 ``[2 * BINS]``.
        reach: where the bins end.
        low: the least number seen.
        high: the largest.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * BINS, dtype=torch.float64)
        self.reach = _TINY
        self.low, self.high = math.inf, -math.inf

    def observe(self, x: Tensor) -> None:
        """Take in ``x [...]``."""
        if not x.numel():
            return
        wide = x.detach().flatten().double().cpu()
        low, high = (float(each) for each in torch.aminmax(wide))
        self.low, self.high = min(self.low, low), max(self.high, high)
        while self.reach < max(-low, high):
            self._grow()
        places = ((wide / self.reach + 1) * BINS).floor().clamp(0, 2 * BINS - 1).long()
        self.counts += torch.bincount(places, minlength=2 * BINS)

    def centres(self) -> Tensor:
        """Of the bins."""
        return ((torch.arange(2 * BINS, dtype=torch.float64) + 0.5) / BINS - 1) * self.reach

    def filled(self) -> tuple[Tensor, Tensor]:
        """Centres, none beyond the least and the largest number, and counts of the bins that are not empty."""
        used = self.counts > 0
        return self.centres()[used].clamp(self.low, self.high), self.counts[used]

    def _grow(self) -> None:
        merged = self.counts.view(BINS, 2).sum(1)
        self.counts = torch.zeros_like(self.counts)
        self.counts[BINS // 2 : BINS // 2 + BINS] = merged
        self.reach *= 2


def search(
    low: float, high: float, encoding: Integers, cost: Callable[[Scales], float], *, steps: int
) -> tuple[float, float]:
    """The range inside ``low`` to ``high`` that costs least.

    First both ends shrink together, then each by itself, twice; symmetric ranges have but one end.

    Args:
        low: the least number.
        high: the largest.
        encoding: what the range is for.
        cost: of scales.
        steps: into how many an end is divided.
    """
    if encoding.symmetric:
        end = max(-low, high, 0.0)
        low, high = -end, end
    parts = [step / steps for step in range(steps, 0, -1)]

    def least(ranges: list[tuple[float, float]]) -> tuple[float, float]:
        return min(ranges, key=lambda each: cost(_scales(each[0], each[1], encoding)))

    best = least([(low * part, high * part) for part in parts])
    if encoding.symmetric or low >= 0 or high <= 0:
        return best
    for _ in range(2):
        best = least([best, *((low * part, best[1]) for part in parts)])
        best = least([best, *((best[0], high * part) for part in parts)])
    return best


def _scales(low: float, high: float, encoding: Integers) -> Scales:
    ends = torch.tensor([[low], [high]], dtype=torch.float64)
    return scales_of(ends[:1], ends[1:], encoding, torch.float64)
