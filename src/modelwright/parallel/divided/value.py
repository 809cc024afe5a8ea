"""Value: a value as this rank holds it, and how it is brought from one division to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.division import (
    Division,
    Product,
    align,
    axes_of,
    dim_of,
    local_volume,
    product_axes,
    strip,
    strip_product,
    whole,
    whole_dim,
)

NONE: frozenset[str] = frozenset()
stamps = count()


class Writes:
    """When pieces of one storage were last overwritten: a stamp that no other write has."""

    __slots__ = ("stamp",)

    def __init__(self) -> None:
        self.stamp = next(stamps)


@dataclass(slots=True)
class Origin:
    """What a view was made of, and how.

    Attributes:
        base: of which it is a view.
        again: makes the view of the base as it is now.
        shown: the same view of any whole tensor of the base's shape.
        stamp: of the base's last write that the view has seen.
    """

    base: Value
    again: Callable[[], Value]
    shown: Callable[[Tensor], Tensor]
    stamp: int


class Value:
    """A value: this rank's piece of it, or of a term of a sum that is still to be taken.

    Attributes:
        local: the piece.
        division: how the value is divided.
        pending: axes over which pieces are still to be summed.
        axes: those of the mesh.
        parameter: whether it is a weight, which stays where it is while activations travel.
        short: of a sum that is pending the type in which it is taken, where its terms are of a wider one.
        origin: of a view, what it was made of.
        writes: shared with what has the same storage.
    """

    __slots__ = ("axes", "division", "local", "origin", "parameter", "pending", "short", "writes")

    def __init__(
        self, local: Tensor, division: Division, axes: Axes, pending: frozenset[str] = NONE, *, parameter: bool = False
    ) -> None:
        self.local = local
        self.division = division
        self.axes = axes
        self.pending = pending
        self.parameter = parameter
        self.short: torch.dtype | None = None
        self.origin: Origin | None = None
        self.writes = Writes()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole value."""
        return self.division.shape

    @property
    def nbytes(self) -> int:
        """Of the whole value."""
        return torch.Size(self.shape).numel() * self.local.element_size()

    @property
    def simple(self) -> bool:
        """Whether every rank holds all of it."""
        return not self.pending and not self.division.axes

    def like(self, local: Tensor, division: Division | None = None, pending: frozenset[str] | None = None) -> Value:
        """Another value on the same axes."""
        return Value(
            local,
            self.division if division is None else division,
            self.axes,
            self.pending if pending is None else pending,
        )

    def view(self, local: Tensor, division: Division) -> Value:
        """The same entries, or some of them."""
        found = Value(local, division, self.axes, self.pending, parameter=self.parameter)
        found.short = self.short
        return found


def plain(tensor: Tensor, axes: Axes) -> Value:
    """A tensor that every rank holds."""
    return Value(tensor, whole(tuple(tensor.shape)), axes)


def resolve(one: Value) -> Value:
    """Take the sums that are pending, once: the value remembers, and what it is a view of.

    Of a view that is scattered the base is left as it is: it has another shape, and might have to be summed whole.
    """
    division = _after_sums(one)
    if one.pending and one.origin is not None and division == one.division:
        resolve(one.origin.base)
        become(one, one.origin.again())
        division = _after_sums(one)
    if one.pending:
        become(one, redistribute(one, division))
    return one


def _after_sums(one: Value) -> Division:
    division = one.division
    for axis in sorted(one.pending):
        division = one.axes.after_sum(division, axis)
    return division


def become(one: Value, found: Value) -> None:
    """Let a value be held as another is that equals it."""
    one.local, one.division, one.pending, one.short = found.local, found.division, found.pending, found.short


def entire(one: Value) -> Tensor:
    """All of a value, on every rank."""
    if one.pending:
        become(one, redistribute(one, one.division))
    return redistribute(one, whole(one.shape)).local


def redistribute(one: Value, division: Division, pending: frozenset[str] = NONE) -> Value:
    """The same value in another division, with sums pending over other axes; costs nothing where nothing changes."""
    if one.division == division and one.pending == pending:
        return one
    state = one.like(one.local)
    state.parameter, state.short = one.parameter, one.short
    _cut_early(state, division)
    for axis in sorted(state.pending - pending):
        _sum(state, division, axis)
    _gather(state, division)
    _cut(state, division)
    _spread(state, pending)
    return state


def store(one: Value, source: Value) -> Value:
    """Overwrite a value with another of its shape, which may be divided in another way; gives the first."""
    one.local.copy_(redistribute(source, one.division, one.pending).local)
    return one


def gathered_once(one: Value, division: Division) -> Value:
    """Like :func:`redistribute`, but what was gathered last is not gathered again."""
    axes, local = one.axes, one.local
    if one.pending or one.division.axes <= division.axes or local.is_inference():
        return redistribute(one, division)
    if local.dim() == 2 and local.stride(0) < local.stride(1):  # a matrix and its transpose are gathered alike
        flipped = gathered_once(one.like(local.t(), _flipped(one.division)), _flipped(division))
        return one.like(flipped.local.t(), division)
    place = (_storage(local), local.storage_offset(), local.shape, local.stride(), local.dtype)
    key = (place, local._version, one.division, division)
    found = axes.latest.pop(key, None)
    while len(axes.latest) >= _remembered():
        axes.latest.pop(next(iter(axes.latest)))
    axes.latest[key] = found = found or (local, redistribute(one, division).local)
    return one.like(found[1], division)


def _storage(local: Tensor) -> int:
    """Nobody else's while the tensor lives, which is kept therefore with what is known of it."""
    return int(local.untyped_storage()._cdata)


def _remembered() -> int:
    """How many: in the backward an output's gradient and an input are wanted by turns."""
    return 1 if torch._C._current_graph_task_id() == -1 else 2


def forget(one: Value) -> None:
    """A value was overwritten: what was gathered of its storage is out of date."""
    latest, storage = one.axes.latest, _storage(one.local)
    for key in [key for key, (source, _) in latest.items() if _storage(source) == storage]:
        del latest[key]


def _flipped(division: Division) -> Division:
    return Division(division.dims[::-1])


def without(one: Value, axes: frozenset[str], places: list[int] | None = None) -> Value:
    """The value with dims (all by default) whole over some axes."""
    division = one.division
    for place in range(len(division.dims)) if places is None else places:
        division = division.with_dim(place, strip(division.dims[place], axes))
    return redistribute(one, division, one.pending)


def gathered(one: Value, places: list[int]) -> Value:
    """The value with some dims whole."""
    division = one.division
    for place in places:
        division = division.with_dim(place, whole_dim(division.shape[place]))
    return redistribute(one, division, one.pending)


def _cut_early(state: Value, target: Division) -> None:
    """Cut dims that are whole, before anything travels."""
    taken = state.division.axes | state.pending
    for place, (dim, goal) in enumerate(zip(state.division.dims, target.dims, strict=True)):
        if axes_of(goal) and not axes_of(dim) and taken.isdisjoint(axes_of(goal)):
            _convert(state, place, goal, _sliced)


def _sum(state: Value, target: Division, axis: str) -> None:
    place, wide = _scatter_place(state, target, axis), state.local.dtype
    state.local = state.local.to(state.short or wide)
    if place is None:
        state.local = state.axes.all_reduce(state.local, axis)
    else:
        goal = target.dims[place]
        kept = strip(goal, axes_of(goal) - axes_of(state.division.dims[place]) - {axis})
        _convert(state, place, kept, _scattered)
    state.local = state.local.to(wide)
    state.pending -= {axis}


def _scatter_place(state: Value, target: Division, axis: str) -> int | None:
    """The dim along which a sum is to be scattered, if nothing but that happens to it."""
    if axis in state.division.axes:
        return None
    for place, (dim, goal) in enumerate(zip(state.division.dims, target.dims, strict=True)):
        others = axes_of(goal) - axes_of(dim) - {axis}
        if all(axis in product_axes(product) for product in goal) and strip(goal, others | {axis}) == dim:
            return place
    return None


def _gather(state: Value, target: Division) -> None:
    """Make whole what is not to stay divided as it is."""
    for place, (dim, goal) in enumerate(zip(state.division.dims, target.dims, strict=True)):
        if dim != goal and axes_of(dim):
            pairs = align(dim, goal)
            kept = whole_dim(state.shape[place]) if pairs is None else [_common(*pair) for pair in pairs]
            _convert(state, place, kept, _whole)


def _common(source: Product, target: Product) -> Product:
    """The source, divided over those axes only that divide the target in the same way."""
    shared = product_axes(source) & product_axes(target)
    found = strip_product(source, product_axes(source) - shared)
    return found if found == strip_product(target, product_axes(target) - shared) else strip_product(found, shared)


def _cut(state: Value, target: Division) -> None:
    for place, (dim, goal) in enumerate(zip(state.division.dims, target.dims, strict=True)):
        if dim != goal:
            _convert(state, place, goal, _sliced)


def _spread(state: Value, pending: frozenset[str]) -> None:
    """A sum of the value and zeros."""
    new = pending - state.pending
    if new and not state.axes.first(new):
        state.local = torch.zeros_like(state.local)
    state.pending |= new


_Step = Callable[[Tensor, int, str, Axes], Tensor]


def _convert(state: Value, place: int, goal: Sequence[Product], step: _Step) -> None:
    """Bring one dim to ``goal``, run by run, with one step for each axis that comes or goes."""
    axes = state.axes
    pairs = align(state.division.dims[place], tuple(goal))
    assert pairs is not None
    sizes = [local_volume(source, axes.sizes) for source, _ in pairs]
    pieces = torch.split(state.local, sizes, place) if len(pairs) > 1 else [state.local]
    done = [
        piece if source == target else _convert_run(piece, place, source, target, axes, step)
        for piece, (source, target) in zip(pieces, pairs, strict=True)
    ]
    state.local = torch.cat(done, place) if len(done) > 1 else done[0]
    state.division = state.division.with_dim(place, dim_of(goal))


def _convert_run(piece: Tensor, place: int, source: Product, target: Product, axes: Axes, step: _Step) -> Tensor:
    here = product_axes(source)
    changed = here ^ product_axes(target)
    finer = source if len(here) > len(product_axes(target)) else target
    extents = [size // axes.sizes[axis] if axis and axis in here else size for size, axis in finer]
    before, after = piece.shape[:place], piece.shape[place + 1 :]
    piece = piece.reshape(*before, *extents, *after)
    for offset, (_, axis) in enumerate(finer):
        if axis and axis in changed:
            piece = step(piece, place + offset, axis, axes)
    return piece.reshape(*before, local_volume(target, axes.sizes), *after)


def _whole(piece: Tensor, place: int, axis: str, axes: Axes) -> Tensor:
    return axes.all_gather(piece, axis).movedim(0, place).flatten(place, place + 1)


def _sliced(piece: Tensor, place: int, axis: str, axes: Axes) -> Tensor:
    share = piece.size(place) // axes.sizes[axis]
    return piece.narrow(place, axes.ranks[axis] * share, share)


def _scattered(piece: Tensor, place: int, axis: str, axes: Axes) -> Tensor:
    return axes.reduce_scatter(torch.unflatten(piece, place, (axes.sizes[axis], -1)).movedim(place, 0), axis)
