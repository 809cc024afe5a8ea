"""Torch's fused kernels where it has them, else its multi-tensor ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modelwright.base.events import emit

Kind = Callable[..., torch.optim.Optimizer]


def fused_or_foreach(kind: Kind, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """``kind(groups, fused=True, ...)``; where torch has no such kernel for these parameters, an event tells."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    if gaps := sum(not _fills_its_memory(parameter) for parameter in parameters):
        reason = f"{gaps} parameters are views with gaps in memory, which the kernel would misread"
        emit("optimizer-not-fused", f"the optimizer runs without its fused kernel: {reason}", reason=reason)
        return kind(groups, foreach=True, **settings)
    try:
        for device, dtype in {(parameter.device, parameter.dtype) for parameter in parameters}:
            _try(kind, device, dtype)
    except RuntimeError as error:
        emit("optimizer-not-fused", f"the optimizer runs without its fused kernel: {error}", reason=str(error))
        return kind(groups, foreach=True, **settings)
    return kind(groups, fused=True, **settings)


def _fills_its_memory(parameter: torch.Tensor) -> bool:
    """Whether gradient and moments, which torch makes dense, get the strides of the parameter.

    What only stands in for a tensor, without memory of its own, is replaced by one that does before any step.
    """
    stands_in = parameter.untyped_storage().nbytes() < parameter.nbytes
    return stands_in or parameter.stride() == torch.empty_like(parameter, device="meta").stride()


def _try(kind: Kind, device: torch.device, dtype: torch.dtype) -> None:
    """Take one fused step on one number: torch refuses in the constructor or in the step, as it sees fit."""
    number = torch.nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    number.grad = torch.zeros_like(number)
    kind([number], fused=True).step()
