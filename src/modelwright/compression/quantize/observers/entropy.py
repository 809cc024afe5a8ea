"""The range in which integers lose least of the distribution's information."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.compression.quantize.encoding import Integers, Scales, encode
from modelwright.compression.quantize.observers.histogram import Histogram, search

_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """The range with the least relative entropy between the numbers cut off at its ends and their integers.

    Source: Migacz 2017, "8-bit inference with TensorRT". What is cut off counts in the outermost bins of the former,
    and not in the latter, which spreads each integer evenly over the filled bins that round to it.
    """

    def build(self) -> RelativeEntropy:
        """See :class:`~modelwright.compression.quantize.observers.Observer`."""
        return RelativeEntropy()


class RelativeEntropy(Histogram):
    """See :class:`Entropy`."""

    def range(self, encoding: Integers) -> tuple[float, float]:
        """The best of the ranges tried."""
        centres, counts = self.filled()

        def cost(scales: Scales) -> float:
            return divergence(centres, counts, scales, encoding)

        return search(self.low, self.high, encoding, cost, steps=_STEPS)


def divergence(centres: Tensor, counts: Tensor, scales: Scales, encoding: Integers) -> float:
    """Relative entropy of the distribution ``counts`` at ``centres``, both ``[bins]``, and of its integers."""
    zero = 0.0 if scales.zero_point is None else float(scales.zero_point)
    step = float(scales.scale)
    inside = (centres >= (encoding.lowest - zero) * step - step / 2) & (
        centres <= (encoding.highest - zero) * step + step / 2
    )
    if not bool(inside.any()):
        return float("inf")
    kept, left = counts[inside], centres[inside]
    cut = kept.clone()
    cut[0] += counts[centres < left[0]].sum()
    cut[-1] += counts[centres > left[-1]].sum()
    levels = encode(left[None], scales, encoding)[0].long() - encoding.lowest
    many = 2**encoding.bits
    sums = torch.bincount(levels, weights=kept, minlength=many)
    even = (sums / torch.bincount(levels, minlength=many).clamp(min=1))[levels]
    p, q = cut / cut.sum(), even / even.sum()
    return float((p * (p / q).log()).sum())
