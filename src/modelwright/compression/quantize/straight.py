"""Rounding that gradients go through, as if it were not there (Bengio et al. 2013, arXiv:1308.3432)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
        ctx.save_for_backward(inside)
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient if inside is None else gradient * inside, None, None


def through(numbers: Tensor, rounded: Tensor, inside: Tensor | None = None) -> Tensor:
    """``rounded``, bit by bit, with the gradient of ``numbers``; where not ``inside``, none."""
    return _Through.apply(numbers, rounded, inside)  # type: ignore[no-any-return, no-untyped-call]
