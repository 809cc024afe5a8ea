"""Local: code of ranks that know of each other, in the midst of code that sees whole tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.divided import unwrap, wrap
from modelwright.parallel.divided.division import Division
from modelwright.parallel.divided.value import NONE, Value, redistribute


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, division: Division, axes: Axes, pending: frozenset[str]) -> Tensor:
        ctx.division, ctx.axes, ctx.pending = division, axes, pending
        local = redistribute(unwrap(tensor.detach(), axes), division).local
        return local.view_as(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return wrap(Value(gradients[0], ctx.division, ctx.axes, ctx.pending)), None, None, None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, division: Division, axes: Axes, pending: frozenset[str]) -> Any:
        ctx.division, ctx.axes = division, axes
        return wrap(Value(local.view_as(local), division, axes, pending))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return redistribute(unwrap(gradients[0], ctx.axes), ctx.division).local, None, None, None


def local_of(tensor: Tensor, division: Division, axes: Axes, pending: frozenset[str] = NONE) -> Tensor:
    """This rank's piece of a tensor in some division, differentiable.

    Args:
        tensor: divided, or one that every rank holds.
        division: that of the piece.
        axes: those of the mesh.
        pending: axes whose ranks do different things with the piece, so that gradients are to be summed over them.
    """
    found: Tensor = _Local.apply(tensor, division, axes, pending)  # type: ignore[no-untyped-call]
    return found


def whole_of(local: Tensor, division: Division, axes: Axes, pending: frozenset[str] = NONE) -> Tensor:
    """The tensor of which ranks hold pieces, or terms of a sum over the axes ``pending``, differentiable."""
    found: Tensor = _Whole.apply(local, division, axes, pending)  # type: ignore[no-untyped-call]
    return found
