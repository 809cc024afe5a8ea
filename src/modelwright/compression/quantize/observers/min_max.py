"""The whole range: from the least number to the largest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.compression.quantize.encoding import Integers


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """From the least number seen to the largest: nothing is cut off, and one outlier makes all steps wide."""

    def build(self) -> Extremes:
        """See :class:`~modelwright.compression.quantize.observers.Observer`."""
        return Extremes()


class Extremes:
    """The least and the largest number so far."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def observe(self, x: Tensor) -> None:
        """Take in ``x [...]``."""
        if x.numel():
            low, high = (float(each) for each in torch.aminmax(x.detach()))
            self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self, encoding: Integers) -> tuple[float, float]:
        """The two."""
        return self.low, self.high
