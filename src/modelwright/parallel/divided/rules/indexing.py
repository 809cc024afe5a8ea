"""Entries at places that another tensor names: embeddings, gather, scatter, index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional

from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.divided import find_axes, unwrap
from modelwright.parallel.divided.division import Dim, Division, axes_of, meet, strip, whole, whole_dim
from modelwright.parallel.divided.local import local_of, whole_of
from modelwright.parallel.divided.registry import FUNCTIONS, rule
from modelwright.parallel.divided.rules.elementwise import fitting
from modelwright.parallel.divided.value import Value, entire, gathered, redistribute, resolve, without

aten = torch.ops.aten


def run_axis(dim: Dim) -> str | None:
    """The axis of a dim that is one run over it."""
    if len(dim) == 1 and len(dim[0]) == 1:
        return dim[0][0].axis
    return None


def own_places(index: Tensor, size: int, axis: str, axes: Axes) -> tuple[Tensor, Tensor]:
    """Where entries ``index`` of a dim that is one run over an axis stand in this rank's piece, and whether they do."""
    share = size // axes.sizes[axis]
    places = index - axes.ranks[axis] * share
    inside = (places >= 0) & (places < share)
    return places.clamp(0, share - 1), inside


# --- embeddings


def _embedding_divisions(weight: Value, index: Value) -> tuple[Division, Division, str | None]:
    """Those of weight and index, and the axis over which the vocabulary stays divided."""
    rows, width = weight.division.dims
    along = run_axis(rows)
    rows = rows if along else whole_dim(weight.shape[0])
    dims = tuple(strip(dim, axes_of(rows) | axes_of(width)) for dim in index.division.dims)
    return Division((rows, width)), Division(dims), along


def embedding(weight: Tensor, index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``torch.embedding``: a rank looks up the words it has, and the sum over ranks is left pending."""
    axes = find_axes((weight, index))
    if axes is None:
        return torch.embedding(weight, index, *args, **kwargs)
    rows, places, along = _embedding_divisions(unwrap(weight.detach(), axes), unwrap(index, axes))
    local = local_of(weight, rows, axes, places.axes)
    wanted = local_of(index, places, axes)
    division = Division((*places.dims, rows.dims[1]))
    padding = args[0] if args else kwargs.pop("padding_idx", -1)
    if along is None:
        return whole_of(torch.embedding(local, wanted, padding, *args[1:], **kwargs), division, axes)
    own, inside = own_places(wanted, weight.shape[0], along, axes)
    begin = axes.ranks[along] * local.size(0)
    own_padding = padding - begin if begin <= padding < begin + local.size(0) else -1
    found = torch.embedding(local, own, own_padding, *args[1:], **kwargs)
    return whole_of(found.masked_fill(~inside.unsqueeze(-1), 0), division, axes, frozenset({along}))


def functional_embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``torch.nn.functional.embedding``; rows that are to be shortened, or gradients by frequency, are torch's."""
    if max_norm is not None or scale_grad_by_freq or sparse or find_axes((input, weight)) is None:
        return functional.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    return embedding(weight, input, padding)


FUNCTIONS[functional.embedding] = functional_embedding


@rule(aten.embedding.default)
def embedded(operator: OpOverload, weight: Value, index: Value, *args: Any, **kwargs: Any) -> Value:
    """Rows of a table."""
    rows, places, along = _embedding_divisions(weight, index)
    local, wanted = redistribute(weight, rows).local, redistribute(index, places).local
    division = Division((*places.dims, rows.dims[1]))
    if along is None:
        return weight.like(operator(local, wanted, *args, **kwargs), division, frozenset())
    own, inside = own_places(wanted, weight.shape[0], along, weight.axes)
    found = operator(local, own, -1).masked_fill(~inside.unsqueeze(-1), 0)
    return weight.like(found, division, frozenset({along}))


@rule(aten.embedding_dense_backward.default)
def embedding_backward(
    operator: OpOverload, gradient: Value, index: Value, count: int, padding: int, by_frequency: bool
) -> Value:
    """Gradients by the rows of a table: each rank's share of their sums."""
    resolve(gradient)
    if by_frequency:
        gradient = gathered(gradient, list(range(len(gradient.shape) - 1)))
    *places, width = gradient.division.dims
    index = redistribute(index, Division(tuple(places)))
    local = operator(gradient.local, index.local, count, padding, by_frequency)
    return gradient.like(local, Division((whole_dim(count), width)), Division(tuple(places)).axes)


# --- gather


def _gather_divisions(value: Value, index: Value, place: int) -> tuple[Division, Division, str | None]:
    """Those of value and index, and the axis over which the dim ``place`` stays divided."""
    along = run_axis(value.division.dims[place])
    used = frozenset({along} if along else ())
    values, indices = list(value.division.dims), list(index.division.dims)
    for other, (mine, theirs) in enumerate(zip(value.division.dims, index.division.dims, strict=True)):
        if other == place:
            values[other] = mine if along else whole_dim(value.shape[other])
            indices[other] = strip(theirs, used)
            continue
        dim = strip(meet(mine, theirs), used) if value.shape[other] == index.shape[other] else None
        values[other] = whole_dim(value.shape[other]) if dim is None else dim
        indices[other] = whole_dim(index.shape[other]) if dim is None else dim
        used |= frozenset() if dim is None else axes_of(dim)
    indices[place] = strip(indices[place], used)
    return Division(tuple(values)), Division(tuple(indices)), along


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``torch.gather``: a rank gives what it has, and the sum over ranks is left pending."""
    axes = find_axes((input, index))
    if axes is None or not input.dim():
        return torch.gather(input, dim, index, sparse_grad=sparse_grad)
    place = dim % input.dim()
    values, indices, along = _gather_divisions(unwrap(input.detach(), axes), unwrap(index, axes), place)
    pending = axes_of(indices.dims[place]) - values.axes
    local, wanted = local_of(input, values, axes, pending), local_of(index, indices, axes)
    found = _taken(local, place, wanted, input.shape[place], along, axes)
    return whole_of(found, indices, axes, frozenset({along} if along else ()))


def _taken(local: Tensor, place: int, wanted: Tensor, size: int, along: str | None, axes: Axes) -> Tensor:
    if along is None:
        return torch.gather(local, place, wanted)
    own, inside = own_places(wanted, size, along, axes)
    return torch.gather(local, place, own).masked_fill(~inside, 0)


FUNCTIONS[torch.gather] = FUNCTIONS[Tensor.gather] = gather


@rule(aten.gather.default)
def taken(operator: OpOverload, value: Value, place: int, index: Value, **_: Any) -> Value:
    """Entries of a dim at places that differ from row to row."""
    place %= len(value.shape)
    resolve(value)
    resolve(index)
    values, indices, along = _gather_divisions(value, index, place)
    local, wanted = redistribute(value, values).local, redistribute(index, indices).local
    found = _taken(local, place, wanted, value.shape[place], along, value.axes)
    return value.like(found, indices, frozenset({along} if along else ()))


@rule(aten.scatter.src, aten.scatter.value, aten.scatter_add.default)
def scattered(operator: OpOverload, value: Value, place: int, index: Value, source: Any) -> Value:
    """Entries written at places that differ from row to row: along a dim that is whole, row by row."""
    place %= len(value.shape)
    one = [value, index, *([source] if isinstance(source, Value) else [])]
    dims = [whole_dim(size) for size in value.shape]
    for other in range(len(dims)):
        if other != place and all(each.shape[other] == value.shape[other] for each in one):
            used = frozenset(axis for dim in dims for axis in axes_of(dim))
            for each in one:
                dims[other] = strip(meet(dims[other], each.division.dims[other]), used)
    parts = [_rows(each, dims, value.shape) for each in one]
    given = parts[2] if len(parts) > 2 else source
    return value.like(operator(parts[0], place, parts[1], given), Division(tuple(dims)), frozenset())


def _rows(one: Value, dims: Sequence[Dim], shape: Sequence[int]) -> Tensor:
    pairs = zip(dims, one.shape, shape, strict=True)
    division = Division(tuple(dim if size == full else whole_dim(size) for dim, size, full in pairs))
    return redistribute(one, division).local


# --- triangles


@rule(aten.tril.default, aten.triu.default)
def triangle(operator: OpOverload, value: Value, diagonal: int = 0) -> Value:
    """Part of the matrices in the last two dims: of runs of rows or columns the part that they have of it."""
    resolve(value)
    places = [len(value.shape) - 2, len(value.shape) - 1]
    value = gathered(value, [place for place in places if run_axis(value.division.dims[place]) is None])
    below, right = (_begin(value, place) for place in places)
    return value.like(operator(value.local, diagonal + below - right))


def _begin(value: Value, place: int) -> int:
    axis = run_axis(value.division.dims[place])
    return value.axes.ranks[axis] * value.local.size(place) if axis else 0


# --- index_select, index, index_add


@rule(aten.index_select.default)
def selected_places(operator: OpOverload, value: Value, place: int, index: Value) -> Value:
    """Entries of a dim at given places: that dim is gathered."""
    place %= max(len(value.shape), 1)
    resolve(index)
    value = gathered(resolve(value), [place])
    index = without(index, value.division.axes)
    chosen = index.division.dims[0] if index.division.dims else whole_dim(1)
    return value.like(operator(value.local, place, index.local), value.division.with_dim(place, chosen))


@rule(aten.index_add.default)
def added_at(operator: OpOverload, value: Value, place: int, index: Value, source: Value, *, alpha: float = 1) -> Value:
    """Sums at given places of a dim: where what is added is divided along it, each rank's share of them."""
    place %= max(len(value.shape), 1)
    resolve(source)
    division = source.division.with_dim(place, whole_dim(value.shape[place]))
    along = source.division.dims[place]
    value = redistribute(value, division, axes_of(along))
    index = redistribute(index, Division((along,)))
    return value.like(operator(value.local, place, index.local, source.local, alpha=alpha), division, axes_of(along))


@rule(aten.index.Tensor)
def indexed(operator: OpOverload, value: Value, indices: Sequence[Value | None]) -> Value | Tensor:
    """``value[index, ...]``: dims that are indexed are gathered, indices keep what does not clash with the rest."""
    if _by_mask(indices):
        # How many entries it chooses, every rank must know.
        return operator(entire(value), _entirely(indices))  # type: ignore[no-any-return]
    places = [place for place, index in enumerate(indices) if index is not None]
    value = gathered(resolve(value), places)
    common = _common([index for index in indices if index is not None], value.division.axes)
    division = _of_chosen(value.division, places, common)
    return value.like(operator(value.local, _local_indices(indices, common)), division)


@rule(aten.index_put.default)
def put(
    operator: OpOverload, value: Value, indices: Sequence[Value | None], source: Value, accumulate: bool = False
) -> Value | Tensor:
    """``value[index, ...] = source``, or ``+=``: of sums each rank has its share."""
    if _by_mask(indices):
        return operator(entire(value), _entirely(indices), entire(source), accumulate)  # type: ignore[no-any-return]
    places = [place for place, index in enumerate(indices) if index is not None]
    value = gathered(resolve(value), places)
    given = [index for index in indices if index is not None]
    common = _common(given, value.division.axes)
    common = common if accumulate else whole(common.shape)
    part = fitting(source.shape, _of_chosen(value.division, places, common))
    value = redistribute(value, value.division, common.axes)
    local_source = redistribute(resolve(source), part).local
    found = operator(value.local, _local_indices(indices, common), local_source, accumulate)
    return value.like(found, value.division, common.axes)


def _by_mask(indices: Sequence[Value | None]) -> bool:
    return any(index is not None and index.local.dtype in (torch.bool, torch.uint8) for index in indices)


def _entirely(indices: Sequence[Value | None]) -> list[Tensor | None]:
    return [None if index is None else entire(index) for index in indices]


def _local_indices(indices: Sequence[Value | None], common: Division) -> list[Tensor | None]:
    return [None if index is None else _broadcast(index, common) for index in indices]


def _of_chosen(division: Division, places: Sequence[int], common: Division) -> Division:
    """That of what is chosen: dims of the indices are in the place of the indexed ones, or first if these are apart."""
    rest = [dim for place, dim in enumerate(division.dims) if place not in places]
    adjacent = list(places) == list(range(places[0], places[0] + len(places)))
    before = places[0] if adjacent else 0
    return Division((*rest[:before], *common.dims, *rest[before:]))


def _common(indices: Sequence[Value], taken: frozenset[str]) -> Division:
    shape = torch.broadcast_shapes(*(index.shape for index in indices))  # type: ignore[no-untyped-call]
    dims = [whole_dim(size) for size in shape]
    for index in indices:
        shift = len(shape) - len(index.shape)
        for place, dim in enumerate(index.division.dims, start=shift):
            used = taken | Division((*dims[:place], *dims[place + 1 :])).axes
            if index.shape[place - shift] == shape[place]:
                dims[place] = meet(dims[place], strip(dim, used))
    return Division(tuple(dims))


def _broadcast(index: Value, common: Division) -> Tensor:
    dims = common.dims[len(common.dims) - len(index.shape) :]
    goal = tuple(whole_dim(1) if size == 1 else dim for size, dim in zip(index.shape, dims, strict=True))
    return redistribute(index, Division(goal)).local
