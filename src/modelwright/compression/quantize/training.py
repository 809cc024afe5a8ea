"""Weights that are trained while they are rounded where they are used: quantization-aware training.

The rounding is that of the encoded weight, bit by bit, so that what was trained is what is stored (Jacob et al. 2017,
arXiv:1712.05877); gradients go through it as if it were not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelwright.compression.quantize.encoding import Encoding, Half, decode, encode, fit
from modelwright.compression.quantize.straight import through
from modelwright.compression.quantize.weights import EncodedWeight


class TrainedWeight(EncodedWeight):
    """A weight that is a parameter, and is rounded where it is used.

    Args:
        shape: of the weight.
        encoding: how it will be stored.
        dtype: of the parameter.
        device: of the parameter, which is not set yet.
    """

    def __init__(
        self, shape: Sequence[int], encoding: Encoding, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.shape, self.encoding = tuple(shape), encoding
        self.weight = nn.Parameter(torch.zeros(self.shape, dtype=dtype, device=device))

    def decoded(self) -> Tensor:
        """See :class:`EncodedWeight`."""
        if isinstance(self.encoding, Half):
            return self.weight.to(getattr(torch, self.encoding.dtype))
        matrix = self.weight.detach().reshape(self.shape[0], -1)
        scales = fit(matrix, self.encoding, matrix.dtype)
        rounded = decode(encode(matrix, scales, self.encoding), scales, self.encoding.group)
        return through(self.weight, rounded.reshape(self.shape))

    def rows(self, places: Tensor) -> Tensor:
        """See :class:`EncodedWeight`."""
        return self.decoded()[places]

    @torch.no_grad()
    def fill(self, matrix: Tensor) -> None:
        """Take ``matrix [rows, columns]`` as it is."""
        self.weight.copy_(matrix.reshape(self.shape))
