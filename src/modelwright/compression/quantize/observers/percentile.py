"""The range of nearly all numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Integers
from modelwright.compression.quantize.observers.histogram import BINS, Histogram


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """The range that holds a share of the numbers seen, as many being left out at either end.

    Attributes:
        share: of the numbers.
    """

    share: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.5 <= self.share <= 1:
            raise ModelwrightError(f"the share of numbers in the range is from 0.5 to 1, not {self.share}")

    def build(self) -> Quantiles:
        """See :class:`~modelwright.compression.quantize.observers.Observer`."""
        return Quantiles(self.share)


class Quantiles(Histogram):
    """See :class:`Percentile`; right to the width of a bin."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def range(self, encoding: Integers) -> tuple[float, float]:
        """The two quantiles."""
        outside = (1 - self.share) / 2
        low, high = self._quantile(outside), self._quantile(1 - outside)
        return max(low, self.low), min(high, self.high)

    def _quantile(self, share: float) -> float:
        sums = self.counts.cumsum(0)
        wanted = share * float(sums[-1])
        place = min(int(torch.searchsorted(sums, wanted)), 2 * BINS - 1)
        inside = (wanted - float(sums[place] - self.counts[place])) / max(float(self.counts[place]), 1.0)
        return ((place + min(max(inside, 0.0), 1.0)) / BINS - 1) * self.reach
