"""Convolutions: channels are divided as the rows and columns of a matrix are; pixels are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.division import (
    Dim,
    Division,
    Factor,
    axes_of,
    even,
    local_length,
    strip,
    whole_dim,
)
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.value import Value, gathered, redistribute, resolve

aten = torch.ops.aten


@dataclass(frozen=True)
class _Plan:
    """How samples, channels that are read and channels that are written are divided, and groups on this rank."""

    batch: Dim
    into: Dim
    out: Dim
    weight: Division
    groups: int

    def given(self, value: Value) -> Value:
        """The input."""
        return redistribute(value, Division((self.batch, self.into, *value.division.dims[2:])))

    def made(self, shape: Sequence[int]) -> Division:
        """Of an output ``[samples, channels, ...]`` of local shape."""
        return Division((self.batch, self.out, *map(whole_dim, shape[2:])))


def group_axis(dim: Dim, groups: int, sizes: dict[str, int]) -> str | None:
    """The axis over which a dim is divided in runs of whole groups."""
    if len(dim) != 1 or len(dim[0]) != 1:
        return None
    axis = dim[0][0].axis
    return axis if axis is not None and groups % sizes[axis] == 0 else None


def channels_first(value: Value) -> Value:
    """The value with its sums taken and its pixels whole."""
    return gathered(resolve(value), list(range(2, len(value.shape))))


def _planned(value: Value, weight: Value, groups: int, transposed: bool) -> _Plan:
    batch, kernel = value.division.dims[0], [whole_dim(size) for size in weight.shape[2:]]
    into, out = (0, 1) if transposed else (1, 0)
    if groups == 1:
        given, wanted = value.division.dims[1], weight.division.dims[into]
        made = strip(weight.division.dims[out], axes_of(batch))
        read = even(strip(wanted if axes_of(wanted) else given, axes_of(batch) | axes_of(made)))
        dims = [made, read]
        return _Plan(batch, read, made, Division((dims[out], dims[into], *kernel)), 1)
    axis = group_axis(weight.division.dims[0], groups, value.axes.sizes)
    axis = None if axis in axes_of(batch) else axis
    first, second = weight.shape[:2]
    made_size = second * groups if transposed else first
    return _Plan(
        batch,
        ((Factor(value.shape[1], axis),),),
        ((Factor(made_size, axis),),),
        Division((((Factor(first, axis),),), whole_dim(second), *kernel)),
        groups // value.axes.sizes[axis] if axis else groups,
    )


@rule(aten.convolution.default)
def convolved(operator: OpOverload, value: Value, weight: Value, bias: Value | None, *options: Any) -> Value:
    """Where channels that are read are divided, the result is a sum that is pending."""
    value = channels_first(value)
    plan = _planned(value, weight, options[-1], options[3])
    pending = axes_of(plan.into) if options[-1] == 1 else frozenset[str]()
    added = None if bias is None or not value.axes.first(pending) else _fitted(bias, plan.out)
    given, kernel = plan.given(value), redistribute(resolve(weight), plan.weight)
    local = operator(given.local, kernel.local, added, *options[:-1], plan.groups)
    return value.like(local, plan.made(local.shape), pending)


def _fitted(one: Value, dim: Dim) -> Tensor:
    return redistribute(resolve(one), Division((dim,))).local


@rule(aten.convolution_backward.default)
def convolved_backward(
    operator: OpOverload,
    gradient: Value,
    value: Value,
    weight: Value,
    bias_sizes: Sequence[int] | None,
    *options: Any,
) -> Any:
    """Of a convolution."""
    *geometry, groups, mask = options
    value, gradient = channels_first(value), channels_first(gradient)
    plan = _planned(value, weight, groups, geometry[3])
    given, kernel = plan.given(value), redistribute(resolve(weight), plan.weight)
    made = redistribute(gradient, plan.made(gradient.shape))
    sizes = None if bias_sizes is None else [local_length(plan.out, value.axes.sizes)]
    found = operator(made.local, given.local, kernel.local, sizes, *geometry, plan.groups, mask)
    summed = axes_of(plan.out) if groups == 1 else frozenset[str]()
    divisions = (given.division, plan.weight, Division((plan.out,)))
    pendings = (summed, axes_of(plan.batch), axes_of(plan.batch))
    return tuple(
        None if entry is None else value.like(entry, division, pending)
        for entry, division, pending in zip(found, divisions, pendings, strict=True)
    )
