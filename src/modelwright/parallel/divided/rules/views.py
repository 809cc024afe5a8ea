"""Operators that show the entries of a tensor in another shape, or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.division import (
    Division,
    Indivisible,
    axes_of,
    dim_of,
    local_length,
    local_offset,
    meet,
    narrowed,
    reshaped,
    strip,
    whole_dim,
)
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.value import Value, gathered, redistribute, resolve, without

aten = torch.ops.aten


@rule(aten.detach.default, aten.alias.default, aten.lift_fresh.default)
def same(operator: OpOverload, value: Value) -> Value:
    """The same value: a sum that is taken for one of them is taken for all."""
    return value


@rule(aten.clone.default, aten.positive.default)
def cloned(operator: OpOverload, value: Value, **kwargs: Any) -> Value:
    """A copy."""
    found = value.like(operator(value.local, **kwargs))
    found.parameter = value.parameter
    return found


@rule(aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)
def viewed(operator: OpOverload, value: Value, shape: Sequence[int], *_: Any) -> Value:
    """Another shape; axes in whose way its dims lie are gathered."""
    shape = _complete(value.shape, shape)
    while True:
        try:
            division = reshaped(value.division, shape, value.axes.sizes)
        except Indivisible as found:
            value = without(value, frozenset({found.axis}) if found.axis else value.division.axes)
            continue
        return value.view(_shaped(value.local, division.local_shape(value.axes.sizes)), division)


def _shaped(local: Tensor, shape: tuple[int, ...]) -> Tensor:
    return local.reshape(shape)


def _complete(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    if -1 not in new:
        return tuple(new)
    known = -torch.Size(new).numel()
    return tuple(torch.Size(old).numel() // known if size == -1 else size for size in new)


@rule(aten.t.default)
def turned(operator: OpOverload, value: Value) -> Value:
    """The transpose of a matrix."""
    return value.view(operator(value.local), Division(value.division.dims[::-1]))


@rule(aten.transpose.int)
def transposed(operator: OpOverload, value: Value, first: int, second: int) -> Value:
    """Two dims exchanged."""
    dims = list(value.division.dims)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return value.view(operator(value.local, first, second), Division(tuple(dims)))


@rule(aten.permute.default)
def permuted(operator: OpOverload, value: Value, order: Sequence[int]) -> Value:
    """The dims in another order."""
    dims = value.division.dims
    return value.view(operator(value.local, order), Division(tuple(dims[place] for place in order)))


@rule(aten.unsqueeze.default)
def unsqueezed(operator: OpOverload, value: Value, place: int) -> Value:
    """One more dim."""
    dims = list(value.division.dims)
    dims.insert(place % (len(dims) + 1), whole_dim(1))
    return value.view(operator(value.local, place), Division(tuple(dims)))


@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeezed(operator: OpOverload, value: Value, places: int | Sequence[int] | None = None) -> Value:
    """Dims of one entry left out."""
    count = len(value.shape)
    listed = range(count) if places is None else [places] if isinstance(places, int) else places
    gone = [place % count for place in listed if count and value.shape[place] == 1]
    dims = tuple(dim for place, dim in enumerate(value.division.dims) if place not in gone)
    return value.view(value.local.squeeze(tuple(gone)) if gone else aten.alias(value.local), Division(dims))


@rule(aten.expand.default)
def expanded(operator: OpOverload, value: Value, shape: Sequence[int], **_: Any) -> Value:
    """Dims of one entry repeated."""
    shift = len(shape) - len(value.shape)
    dims = [whole_dim(size) for size in shape[:shift]]
    for dim, old, new in zip(value.division.dims, value.shape, shape[shift:], strict=True):
        dims.append(dim if new in (-1, old) else whole_dim(new))
    division = Division(tuple(dims))
    return value.view(value.local.expand(division.local_shape(value.axes.sizes)), division)


@rule(aten.slice.Tensor)
def sliced(
    operator: OpOverload, value: Value, place: int = 0, begin: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """Entries of a dim, from ``begin`` to ``end``."""
    place %= len(value.shape)
    size = value.shape[place]
    low, high, step = slice(begin, end, step).indices(size)
    high = max(high, low)
    if step != 1:
        value = gathered(value, [place])
        local = value.local.narrow(place, 0, size)[(slice(None),) * place + (slice(low, high, step),)]
        return value.view(local, value.division.with_dim(place, whole_dim(local.size(place))))
    return _narrow(value, place, low, high - low)


def _narrow(value: Value, place: int, begin: int, size: int) -> Value:
    if (begin, size) == (0, value.shape[place]):
        return value.view(aten.alias(value.local), value.division)
    while True:
        dim = value.division.dims[place]
        try:
            kept = narrowed(dim, begin, size)
        except Indivisible:
            value = gathered(value, [place])
            continue
        sizes = value.axes.sizes
        local = value.local.narrow(place, local_offset(dim, begin, sizes), local_length(kept, sizes))
        return value.view(local, value.division.with_dim(place, kept))


@rule(aten.split.Tensor, aten.split_with_sizes.default)
def split(operator: OpOverload, value: Value, size: int | Sequence[int], place: int = 0) -> list[Value]:
    """A dim in runs."""
    total = value.shape[place]
    if isinstance(size, int):
        size = [min(size, total - begin) for begin in range(0, max(total, 1), max(size, 1))]
    begins = [sum(size[:number]) for number in range(len(size))]
    place %= len(value.shape)
    value = _cuttable(value, place, [*zip(begins, size, strict=True)])
    return [_narrow(value, place, begin, extent) for begin, extent in zip(begins, size, strict=True)]


def _cuttable(value: Value, place: int, runs: Sequence[tuple[int, int]]) -> Value:
    """The value, gathered once if any of the runs needs it."""
    try:
        for begin, size in runs:
            narrowed(value.division.dims[place], begin, size)
    except Indivisible:
        return gathered(value, [place])
    return value


@rule(aten.select.int)
def selected(operator: OpOverload, value: Value, place: int, index: int) -> Value:
    """One entry of a dim."""
    place %= len(value.shape)
    found = _narrow(value, place, index % value.shape[place], 1)
    dims = found.division.dims[:place] + found.division.dims[place + 1 :]
    return found.view(found.local.select(place, 0), Division(dims))


@rule(aten.unbind.int)
def unbound(operator: OpOverload, value: Value, place: int = 0) -> list[Value]:
    """All entries of a dim."""
    place %= len(value.shape)
    value = _cuttable(value, place, [(index, 1) for index in range(value.shape[place])])
    return [selected(operator, value, place, index) for index in range(value.shape[place])]


def common(values: Sequence[Value], skip: int | None = None) -> tuple[list[Value], Division, frozenset[str]]:
    """Values of one shape (but for the dim ``skip``) brought to one division, and what is pending in all of them."""
    pending = values[0].pending
    if any(one.pending != pending for one in values):
        values = [resolve(one) for one in values]
        pending = frozenset()
    skipped = frozenset[str]()
    if skip is not None:
        skipped = skipped.union(*(axes_of(one.division.dims[skip]) for one in values))
    goal = [strip(dim, skipped) for dim in values[0].division.dims]
    for place in range(len(goal)):
        for one in values if place != skip else ():
            dim = one.division.dims[place]
            used = frozenset(a for other, entry in enumerate(goal) if other != place for a in axes_of(entry))
            if (used | skipped | pending).isdisjoint(axes_of(dim)):
                goal[place] = meet(goal[place], dim)
    found = []
    for one in values:
        dims = [*goal]
        if skip is not None:
            dims[skip] = one.division.dims[skip]
        found.append(redistribute(one, Division(tuple(dims)), pending))
    return found, Division(tuple(goal)), pending


@rule(aten.cat.default)
def joined(operator: OpOverload, values: Sequence[Value], place: int = 0) -> Value:
    """Runs of a dim, one after the other."""
    values = [one for one in values if one.shape != (0,)] or [values[0]]
    place %= len(values[0].shape)
    values, division, pending = common(values, place)
    dim = dim_of(product for one in values for product in one.division.dims[place])
    local = torch.cat([one.local for one in values], place)
    return values[0].like(local, division.with_dim(place, dim), pending)


@rule(aten.stack.default)
def stacked(operator: OpOverload, values: Sequence[Value], place: int = 0) -> Value:
    """Along a new dim."""
    values, division, pending = common(values)
    place %= len(division.dims) + 1
    dims = (*division.dims[:place], whole_dim(len(values)), *division.dims[place:])
    return values[0].like(torch.stack([one.local for one in values], place), Division(dims), pending)


@rule(aten.slice_backward.default)
def unsliced(
    operator: OpOverload, gradient: Value, shape: Sequence[int], place: int, begin: int, end: int, step: int
) -> Value:
    """Zeros around a run of a dim."""
    place %= len(shape)
    if step != 1:
        gradient = gathered(gradient, [place])
    low, _, step = slice(begin, end, step).indices(shape[place])
    dim = gradient.division.dims[place]
    if step != 1:
        local_shape = [*gradient.local.shape]
        local_shape[place] = shape[place]
        return gradient.like(
            operator(gradient.local, local_shape, place, begin, end, step),
            gradient.division.with_dim(place, whole_dim(shape[place])),
        )
    after = shape[place] - low - gradient.shape[place]
    goal = dim_of([*whole_dim(low), *dim, *whole_dim(after)])
    local = torch.cat([_zeros(gradient.local, place, low), gradient.local, _zeros(gradient.local, place, after)], place)
    return gradient.like(local, gradient.division.with_dim(place, goal))


def _zeros(like: Tensor, place: int, size: int) -> Tensor:
    shape = [*like.shape]
    shape[place] = size
    return like.new_zeros(shape)


@rule(aten.select_backward.default)
def unselected(operator: OpOverload, gradient: Value, shape: Sequence[int], place: int, index: int) -> Value:
    """Zeros around one entry of a dim."""
    place %= len(shape)
    dims = gradient.division.dims
    division = Division((*dims[:place], whole_dim(shape[place]), *dims[place:]))
    local_shape = division.local_shape(gradient.axes.sizes)
    return gradient.like(operator(gradient.local, list(local_shape), place, index), division)


@rule(aten.flip.default)
def flipped(operator: OpOverload, value: Value, places: Sequence[int]) -> Value:
    """Dims backwards."""
    value = gathered(value, [place % len(value.shape) for place in places])
    return value.like(operator(value.local, places))
