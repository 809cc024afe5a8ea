"""Each number by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.compression.quantize.encoding import Integers, Scales, encode, fit


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Each number becomes the nearest integer; needs no examples."""

    reads = False

    def round(
        self, matrix: Tensor, encoding: Integers, second: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Scales]:
        """See :class:`~modelwright.compression.quantize.rounding.Rounding`."""
        scales = fit(matrix, encoding, dtype)
        return encode(matrix, scales, encoding), scales
