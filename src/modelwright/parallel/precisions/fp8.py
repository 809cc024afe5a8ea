"""fp8 matrix products, through torchao."""

from __future__ import annotations

import torch
from torch import nn

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import emit
from modelwright.parallel.precisions.mixed import Bf16

try:
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
except ImportError as error:
    raise MissingExtra("fp8", "training in fp8 needs torchao") from error

_MULTIPLE = 16


class Fp8(Bf16):
    """``fp8``: the products of linear layers in 8 bits with a scale per tensor, the rest as ``bf16``.

    Source: Micikevicius et al. 2022 (arXiv:2209.05433), as torchao does it. Layers whose sizes are no multiples of
    16, and heads named ``head`` or ``lm_head``, stay in bfloat16.

    Args:
        emulated: compute the rounding without the units for it; slow, for tests.
    """

    def __init__(self, *, emulated: bool = False) -> None:
        self.emulated = emulated

    def check(self, device: torch.device) -> None:
        """Refuse what has no such units.

        Raises:
            ModelwrightError: no CUDA device of compute capability 8.9 or more.
        """
        if self.emulated:
            return
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
            raise ModelwrightError(
                f"fp8 needs an NVIDIA GPU of compute capability 8.9 or more; this is {device.type}",
                where="plan.precision",
                remedy="choose bf16, or leave it to auto",
            )

    def convert(self, model: nn.Module) -> None:
        """Replace linear layers in place; names and parameters stay.

        Raises:
            ModelwrightError: no layer fits.
        """
        converted: list[str] = []

        def chosen(module: nn.Module, name: str) -> bool:
            fits = isinstance(module, nn.Linear) and _fits(module) and name.rpartition(".")[2] not in _HEADS
            converted.extend([name] if fits else [])
            return fits

        convert_to_float8_training(model, config=Float8LinearConfig(emulate=self.emulated), module_filter_fn=chosen)
        if not converted:
            raise ModelwrightError(
                "the model has no linear layer that fp8 fits: both sizes are to be multiples of 16",
                where="plan.precision",
                remedy="choose bf16",
            )
        emit("fp8-layers", f"{len(converted)} linear layers compute in fp8", modules=converted)


_HEADS = ("head", "lm_head")


def _fits(module: nn.Linear) -> bool:
    return module.in_features % _MULTIPLE == 0 and module.out_features % _MULTIPLE == 0
