"""Sums, means, extremes and norms over dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.base.group import Reduction
from modelwright.parallel.divided.division import Dim, Division, axes_of, even, whole_dim
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.elementwise import settle
from modelwright.parallel.divided.value import Value, entire, gathered, redistribute, resolve

aten = torch.ops.aten


def reduced_dims(value: Value, places: Any) -> list[int]:
    """The dims that a reduction names: all of them where it names none."""
    count = len(value.shape)
    if places is None or (not isinstance(places, int) and not len(places)):
        return list(range(count))
    listed = [places] if isinstance(places, int) else places
    return sorted({place % max(count, 1) for place in listed}) if count else []


def remaining(division: Division, places: Sequence[int], keep: bool) -> Division:
    """The division of a result."""
    dims: list[Dim] = []
    for place, dim in enumerate(division.dims):
        if place not in places:
            dims.append(dim)
        elif keep:
            dims.append(whole_dim(1))
    return Division(tuple(dims))


def axes_along(value: Value, places: Sequence[int]) -> frozenset[str]:
    """Axes over which any of some dims is divided."""
    return frozenset(axis for place in places for axis in axes_of(value.division.dims[place]))


def evenly(value: Value, places: Sequence[int]) -> Value:
    """The value, where entries of the dims are held once each or by all: sums of runs of both kinds are made whole."""
    division = value.division
    for place in places:
        division = division.with_dim(place, even(division.dims[place]))
    return redistribute(value, division, value.pending)


@rule(aten.sum.dim_IntList)
def summed(
    operator: OpOverload, value: Value, places: Sequence[int] | None, keep: bool = False, **kwargs: Any
) -> Value:
    """Sums: over a divided dim they are left pending."""
    listed = reduced_dims(value, places)
    value = evenly(value, listed)
    local = operator(value.local, listed, keep, **kwargs) if listed else _converted(value.local, **kwargs)
    return value.like(local, remaining(value.division, listed, keep), value.pending | axes_along(value, listed))


def _converted(local: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return local.clone() if dtype is None else local.to(dtype, copy=True)


@rule(aten.sum.default)
def summed_all(operator: OpOverload, value: Value, **kwargs: Any) -> Value:
    """The sum of all entries."""
    return summed(aten.sum.dim_IntList, value, None, **kwargs)  # type: ignore[no-any-return]


@rule(aten.mean.dim, aten.mean.default)
def averaged(
    operator: OpOverload,
    value: Value,
    places: Sequence[int] | None = None,
    keep: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    """Means: each rank's share of them where a dim is divided."""
    listed = reduced_dims(value, places)
    value = evenly(value, listed)
    whole_count = torch.Size([value.shape[place] for place in listed]).numel()
    local_count = torch.Size([value.local.size(place) for place in listed]).numel()
    local = value.local.mean(listed, keep, dtype=dtype) if listed else _converted(value.local, dtype)
    if local_count != whole_count:
        local = local * (local_count / whole_count)
    return value.like(local, remaining(value.division, listed, keep), value.pending | axes_along(value, listed))


_EXTREMES: dict[OpOverload, Reduction] = {
    aten.amax.default: "max",
    aten.amin.default: "min",
    aten.max.default: "max",
    aten.min.default: "min",
}


@rule(*_EXTREMES)
def extreme(operator: OpOverload, value: Value, places: Any = None, keep: bool = False) -> Value:
    """The largest or smallest entries."""
    resolve(value)
    listed = reduced_dims(value, places)
    local = (torch.amax if _EXTREMES[operator] == "max" else torch.amin)(value.local, listed, keep)
    for axis in sorted(axes_along(value, listed)):
        local = value.axes.all_reduce(local, axis, _EXTREMES[operator])
    return value.like(local, remaining(value.division, listed, keep))


@rule(aten.any.default, aten.any.dim, aten.all.default, aten.all.dim)
def judged(operator: OpOverload, value: Value, places: Any = None, keep: bool = False) -> Value:
    """Whether any entry, or all, are true."""
    resolve(value)
    listed = reduced_dims(value, places)
    op: Reduction = "max" if operator._schema.name == "aten::any" else "min"
    found = value.local.bool().to(torch.uint8)
    local = (torch.amax if op == "max" else torch.amin)(found, listed, keep)
    for axis in sorted(axes_along(value, listed)):
        local = value.axes.all_reduce(local, axis, op)
    return value.like(local.bool(), remaining(value.division, listed, keep))


def along_whole(operator: OpOverload, value: Value, place: int, *args: Any, **kwargs: Any) -> Any:
    """A function of the entries along one dim, which is gathered; the result has the same dims."""
    resolve(value)
    value = gathered(value, [place % len(value.shape)]) if value.shape else value
    result = operator(value.local, place, *args, **kwargs)
    if isinstance(result, torch.Tensor):
        return value.like(result)
    return tuple(value.like(entry) for entry in result)


rule(
    aten._softmax.default,
    aten._log_softmax.default,
    aten.cumsum.default,
    aten.cumprod.default,
    aten.logcumsumexp.default,
    aten._safe_softmax.default,
)(along_whole)


@rule(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default)
def softmax_backward(operator: OpOverload, gradient: Value, output: Value, place: int, dtype: torch.dtype) -> Value:
    """Of softmax along a dim."""
    gradient, output = together([gradient, output], [place])
    return output.like(operator(gradient.local, output.local, place, dtype))


def together(values: Sequence[Value], places: Sequence[int]) -> list[Value]:
    """Values of one shape in one division, in which some dims are whole."""
    division = settle(values)
    for place in places:
        division = division.with_dim(place % len(division.dims), whole_dim(division.shape[place]))
    return [redistribute(one, division) for one in values]


@rule(aten.argmax.default, aten.argmin.default)
def place_of_extreme(operator: OpOverload, value: Value, place: int | None = None, keep: bool = False) -> Value:
    """Where the largest or smallest entries are."""
    resolve(value)
    listed = reduced_dims(value, place)
    value = gathered(value, listed)
    return value.like(operator(value.local, place, keep), remaining(value.division, listed, keep))


@rule(
    aten.max.dim, aten.min.dim, aten.std.correction, aten.var.correction, aten.logsumexp.default, aten.median.dim,
    aten.mode.default, aten.prod.dim_int, aten.linalg_vector_norm.default, aten.var_mean.correction,
)  # fmt: skip
def over_whole(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Any:
    """A function of the entries along dims, which are gathered."""
    resolve(value)
    names = [argument.name for argument in operator._schema.arguments][1:]
    given = dict(zip(names, args, strict=False)) | kwargs
    listed = reduced_dims(value, given.get("dim"))
    value = gathered(value, listed)
    keep = bool(given.get("keepdim", False))
    division = remaining(value.division, listed, keep)
    result = operator(value.local, *args, **kwargs)
    if isinstance(result, torch.Tensor):
        return value.like(result, division)
    return tuple(value.like(entry, division) for entry in result)


@rule(aten.sort.default, aten.sort.stable, aten.topk.default)
def sorted_along(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Any:
    """Entries in their order along a dim, which is gathered."""
    resolve(value)
    names = [argument.name for argument in operator._schema.arguments][1:]
    place = (dict(zip(names, args, strict=False)) | kwargs).get("dim", -1) % len(value.shape)
    value = gathered(value, [place])
    return tuple(
        value.like(entry, value.division.with_dim(place, whole_dim(entry.size(place))))
        for entry in operator(value.local, *args, **kwargs)
    )


@rule(aten.tril.default, aten.triu.default)
def triangle(operator: OpOverload, value: Value, diagonal: int = 0) -> Value:
    """Part of the matrices in the last two dims."""
    value = gathered(value, [len(value.shape) - 2, len(value.shape) - 1])
    return value.like(operator(value.local, diagonal))


@rule(aten._local_scalar_dense.default)
def number(operator: OpOverload, value: Value) -> Any:
    """The one entry, as a number."""
    return operator(entire(value))


@rule(aten.is_same_size.default)
def same_size(operator: OpOverload, first: Value, second: Value) -> bool:
    """Whether shapes are equal."""
    return first.shape == second.shape


@rule(aten.equal.default)
def equal(operator: OpOverload, first: Value, second: Value) -> bool:
    """Whether all entries are equal."""
    return torch.equal(entire(first), entire(second))
