"""The parameters' own type throughout; on recent NVIDIA devices with faster, shorter products on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError


class Full:
    """``fp32``: everything is computed in the parameters' own type, be it float32 or float64."""

    scaled: ClassVar[bool] = False

    def check(self, device: torch.device) -> None:
        """Runs everywhere."""

    def convert(self, model: nn.Module) -> None:
        """The model stays as it is."""

    def step(self) -> AbstractContextManager[Any]:
        """Nothing to set."""
        return nullcontext()

    def forward(self, model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
        """Nothing to set."""
        return nullcontext()


class Tf32(Full):
    """``tf32``: float32 whose matrix products round their factors to 10 bits of mantissa, on the tensor cores.

    Source: NVIDIA A100 architecture white paper, 2020. The switch is the process's own; it is set around each step.
    """

    def check(self, device: torch.device) -> None:
        """Refuse what has no such units.

        Raises:
            ModelwrightError: no CUDA device of compute capability 8.0 or more.
        """
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise ModelwrightError(
                f"tf32 needs an NVIDIA GPU of compute capability 8.0 or more; this is {device.type}",
                where="plan.precision",
                remedy="choose fp32 or bf16, or leave it to auto",
            )

    def step(self) -> AbstractContextManager[Any]:
        """Short products in forward and backward alike."""
        return _tf32_products()


@contextmanager
def _tf32_products() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
