"""Mixed precision: products in 16 bits, parameters and what is sensitive in 32."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import nn

from modelwright.parallel.precisions.full import Full


class Bf16(Full):
    """``bf16``: torch's autocast to bfloat16; parameters, gradients and the optimizer stay in float32.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740); bfloat16 has the range of float32 and needs no scaling.
    """

    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def forward(self, model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
        """Autocast, around the model and its loss."""
        return torch.autocast(device.type, dtype=self.dtype)


class Fp16(Bf16):
    """``fp16``: autocast to float16; the parameters are the float32 masters, the loss is scaled dynamically.

    Small gradients would vanish in float16's range. A step whose scaled gradients overflow is left out, and said.
    """

    dtype: ClassVar[torch.dtype] = torch.float16
    scaled: ClassVar[bool] = True
