"""Operators that compute each entry from the entries at its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.parallel.divided.division import Dim, Division, axes_of, meet, whole_dim
from modelwright.parallel.divided.registry import is_composite, rule, tensors_of
from modelwright.parallel.divided.value import Value, redistribute, resolve

aten = torch.ops.aten


def broadcast(values: Sequence[Value]) -> Division:
    """A division of the result of values that are broadcast: that of the largest, and where it is whole of others."""
    shape = torch.broadcast_shapes(*(one.shape for one in values))  # type: ignore[no-untyped-call]
    dims = [whole_dim(size) for size in shape]
    for one in sorted(values, key=lambda one: (bool(one.pending), -one.nbytes)):
        shift = len(shape) - len(one.shape)
        for place, dim in enumerate(one.division.dims, start=shift):
            used = frozenset(axis for other, entry in enumerate(dims) if other != place for axis in axes_of(entry))
            if axes_of(dim) and one.shape[place - shift] == shape[place] and used.isdisjoint(axes_of(dim)):
                dims[place] = meet(dims[place], dim)
    return Division(tuple(dims))


def matching(one: Value, division: Division) -> Value:
    """A value divided as the result into which it is broadcast."""
    return redistribute(one, fitting(one.shape, division), one.pending)


def fitting(shape: Sequence[int], division: Division) -> Division:
    """The part of a result's division that a value of some shape takes."""
    dims: Sequence[Dim] = division.dims[len(division.dims) - len(shape) :]
    return Division(tuple(whole_dim(1) if size == 1 else dim for size, dim in zip(shape, dims, strict=True)))


def pointwise(operator: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Any function of each entry."""
    values = tensors_of([*args, *kwargs.values()])
    division = settle(values)
    result = operator(*(_piece(entry, division) for entry in args), **_pieces(kwargs, division))
    return _valued(result, values[0], division, frozenset())


def settle(values: Sequence[Value]) -> Division:
    """Choose the division of a result, with every pending sum taken, scattered as the others lie where it can."""
    settled = [one for one in values if not one.pending]
    waiting = [one for one in values if one.pending]
    division = broadcast(values)
    if settled and waiting:
        for one in waiting:
            goal = fitting(one.shape, division)
            if one.pending <= goal.axes:
                found = redistribute(one, goal)
                one.local, one.division, one.pending = found.local, found.division, found.pending
    for one in waiting:
        resolve(one)
    return broadcast(values) if waiting else division


def _piece(entry: Any, division: Division) -> Any:
    if isinstance(entry, Value):
        return matching(entry, division).local
    return [_piece(item, division) for item in entry] if isinstance(entry, list) else entry


def _pieces(kwargs: dict[str, Any], division: Division) -> dict[str, Any]:
    return {key: _piece(entry, division) for key, entry in kwargs.items()}


def _valued(result: Any, like: Value, division: Division, pending: frozenset[str]) -> Any:
    if isinstance(result, torch.Tensor):
        return like.like(result, division, pending)
    return tuple(_valued(entry, like, division, pending) for entry in result)


def scaled(operator: OpOverload, first: Value, *args: Any, **kwargs: Any) -> Any:
    """Scaled by a number: what is pending stays so. Of a product with many the sum is taken, once for all uses."""
    values = tensors_of([first, *args, *kwargs.values()])
    division = broadcast(values)
    pending = first.pending
    if not pending or any(one.pending or math.prod(one.shape) > 1 for one in values[1:]):
        return pointwise(operator, first, *args, **kwargs)
    result = operator(
        _piece(first, division), *(_piece(entry, division) for entry in args), **_pieces(kwargs, division)
    )
    return first.like(result, division, pending)


def added(operator: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Linear in all tensors together: sums pending over the same axes stay so."""
    values = tensors_of([*args, *kwargs.values()])
    pending, division = values[0].pending, broadcast(values)
    same = pending and all(one.pending == pending for one in values) and pending.isdisjoint(division.axes)
    scalars = any(not isinstance(entry, Value) for entry in args)
    if not same or scalars:
        return pointwise(operator, *args, **kwargs)
    result = operator(*(_piece(entry, division) for entry in args), **kwargs)
    return values[0].like(result, division, pending)


@rule(aten.mul.Tensor)
def multiplied(operator: OpOverload, first: Any, second: Any) -> Any:
    """A product, linear in either."""
    if isinstance(second, Value) and second.pending and not (isinstance(first, Value) and first.pending):
        return scaled(operator, second, first)
    return scaled(operator, first, second)


@rule(aten._to_copy.default)
def converted(operator: OpOverload, value: Value, **kwargs: Any) -> Any:
    """Another dtype; a sum is taken before its terms are rounded, and travels before they grow."""
    short = value.local.dtype
    waits = _waits(value, kwargs.get("dtype", short))
    if not waits and kwargs.get("dtype", short) != short:
        resolve(value)
    kwargs.pop("memory_format", None)
    found = value.like(operator(value.local, **kwargs))
    found.parameter, found.short = value.parameter, short if waits else None
    return found


def _waits(value: Value, dtype: torch.dtype) -> bool:
    """Whether a sum should rather be taken later: of rows that are not yet batch and time again, and will be scattered.

    Models that flatten batch and time before a product under autocast give such gradients.
    """
    policy = value.axes.sequence
    if policy is None or value.pending != {policy.axis} or len(value.shape) >= policy.dim + 2 or value.short:
        return False
    return torch.promote_types(value.local.dtype, dtype) == dtype != value.local.dtype


rule(aten.add.Tensor, aten.sub.Tensor)(added)
rule(
    aten.neg.default,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
)(scaled)

# fmt: off
_POINTWISE = [
    "abs", "acos", "addcdiv", "addcmul", "asin", "atan", "atan2", "bitwise_and", "bitwise_not", "bitwise_or",
    "bitwise_xor", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "copysign", "cos", "cosh", "div", "elu",
    "elu_backward", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor", "floor_divide", "fmod", "ge", "gelu",
    "gelu_backward", "gt", "hardsigmoid", "hardswish", "hardtanh", "hardtanh_backward", "isfinite", "isinf", "isnan",
    "le", "leaky_relu", "leaky_relu_backward", "lerp", "log", "log10", "log1p", "log2", "logical_and", "logical_not",
    "logical_or", "logical_xor", "logit", "lt", "masked_fill", "maximum", "minimum", "mish", "mish_backward", "ne",
    "nan_to_num", "nextafter", "pow", "prelu", "_prelu_kernel", "_prelu_kernel_backward", "reciprocal", "relu",
    "remainder", "round", "rsqrt", "rsub", "sgn", "sigmoid", "sigmoid_backward", "sign", "silu", "silu_backward",
    "sin", "sinh", "softplus", "softplus_backward", "special_erf", "special_expit", "sqrt", "square", "tan", "tanh",
    "tanh_backward", "threshold", "threshold_backward", "trunc", "where", "xlogy", "hardswish_backward",
    "hardsigmoid_backward", "add", "sub", "native_dropout_backward", "gcd", "hypot", "sinc", "erfinv",
    "log_sigmoid_forward",
]
# fmt: on
_NOT_POINTWISE = ("out",)
_WITH_KERNELS = (aten.silu_backward.default,)  # made of others only where there is no kernel


def _register() -> None:
    for name in _POINTWISE:
        packet = getattr(aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            operator = getattr(packet, overload)
            if not operator._schema.is_mutable and not overload.endswith(_NOT_POINTWISE):
                _add(operator)


def _add(operator: OpOverload) -> None:
    takes_tensor = any(str(argument.type) == "Tensor" for argument in operator._schema.arguments)
    if takes_tensor and operator not in _TAKEN and (operator in _WITH_KERNELS or not is_composite(operator)):
        rule(operator)(pointwise)


_TAKEN = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
_register()
