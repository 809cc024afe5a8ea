"""Normalisation: along dims that are gathered; statistics of a batch are those of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.parallel.divided.division import Division, axes_of, even, whole_dim
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.elementwise import settle
from modelwright.parallel.divided.value import Value, gathered, redistribute, resolve

aten = torch.ops.aten


def _whole_last(value: Value, count: int) -> Value:
    places = range(len(value.shape) - count, len(value.shape))
    return gathered(value, list(places))


def _entirely(one: Value | None) -> torch.Tensor | None:
    return None if one is None else gathered(resolve(one), list(range(len(one.shape)))).local


def _statistics(value: Value, count: int) -> Division:
    kept = value.division.dims[: len(value.shape) - count]
    return Division((*kept, *(whole_dim(1) for _ in range(count))))


@rule(aten.native_layer_norm.default)
def layer_norm(
    operator: OpOverload, value: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> Any:
    """The last dims at mean zero and variance one."""
    value = _whole_last(resolve(value), len(shape))
    out, mean, deviation = operator(value.local, shape, _entirely(weight), _entirely(bias), eps)
    division = _statistics(value, len(shape))
    return value.like(out), value.like(mean, division), value.like(deviation, division)


@rule(aten._fused_rms_norm.default)
def rms_norm(operator: OpOverload, value: Value, shape: Sequence[int], weight: Value | None, eps: float | None) -> Any:
    """The last dims at mean square one."""
    value = _whole_last(resolve(value), len(shape))
    out, scale = operator(value.local, shape, _entirely(weight), eps)
    return value.like(out), value.like(scale, _statistics(value, len(shape)))


def _both(gradient: Value, value: Value, count: int) -> tuple[Value, Value]:
    """Gradient and value in one division, the last dims whole."""
    division = settle([gradient, value])
    for place, size in enumerate(value.shape):
        inner = place >= len(value.shape) - count
        division = division.with_dim(place, whole_dim(size) if inner else even(division.dims[place]))
    return _dense(redistribute(gradient, division)), _dense(redistribute(value, division))


def _dense(one: Value) -> Value:
    """Its entries in their order in memory, which the kernels take for granted."""
    return one.like(one.local.contiguous())


def _weight_gradient(value: Value, gradient: torch.Tensor | None, shape: Sequence[int]) -> Value | None:
    """That of a weight: a sum over all dims but the last, so pending where those are divided."""
    if gradient is None:
        return None
    rows = value.division.dims[: len(value.shape) - len(shape)]
    pending = frozenset(axis for dim in rows for axis in axes_of(dim))
    return value.like(gradient, Division(tuple(map(whole_dim, shape))), pending)


@rule(aten.native_layer_norm_backward.default)
def layer_norm_backward(
    operator: OpOverload,
    gradient: Value,
    value: Value,
    shape: Sequence[int],
    mean: Value,
    deviation: Value,
    weight: Value | None,
    bias: Value | None,
    mask: Sequence[bool],
) -> Any:
    """Of a layer norm."""
    gradient, value = _both(gradient, value, len(shape))
    division = _statistics(value, len(shape))
    rows = [redistribute(one, division).local.contiguous() for one in (mean, deviation)]
    found = operator(gradient.local, value.local, shape, *rows, _entirely(weight), _entirely(bias), mask)
    return _gradients(value, found, shape)


def _gradients(value: Value, found: Sequence[torch.Tensor | None], shape: Sequence[int]) -> Any:
    own = None if found[0] is None else value.like(found[0])
    return (own, *(_weight_gradient(value, entry, shape) for entry in found[1:]))


@rule(aten._fused_rms_norm_backward.default)
def rms_norm_backward(
    operator: OpOverload,
    gradient: Value,
    value: Value,
    shape: Sequence[int],
    scale: Value,
    weight: Value | None,
    mask: Sequence[bool],
) -> Any:
    """Of a root-mean-square norm."""
    gradient, value = _both(gradient, value, len(shape))
    row = redistribute(scale, _statistics(value, len(shape))).local.contiguous()
    return _gradients(value, operator(gradient.local, value.local, shape, row, _entirely(weight), mask), shape)
