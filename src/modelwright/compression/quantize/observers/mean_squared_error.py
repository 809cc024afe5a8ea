"""The range whose integers are nearest to the numbers in the mean square."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.compression.quantize.encoding import Integers, Scales, decode, encode
from modelwright.compression.quantize.observers.histogram import Histogram, search

_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError:
    """The range that makes the mean squared error of rounding and cutting off least; a search on a histogram."""

    def build(self) -> LeastSquares:
        """See :class:`~modelwright.compression.quantize.observers.Observer`."""
        return LeastSquares()


class LeastSquares(Histogram):
    """See :class:`MeanSquaredError`."""

    def range(self, encoding: Integers) -> tuple[float, float]:
        """The best of the ranges tried."""
        centres, counts = self.filled()

        def cost(scales: Scales) -> float:
            rounded = decode(encode(centres[None], scales, encoding), scales, encoding.group)
            return float(((rounded[0] - centres).square() * counts).sum())

        return search(self.low, self.high, encoding, cost, steps=_STEPS)
