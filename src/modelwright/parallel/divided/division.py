"""How a tensor is divided over axes of the mesh: which entries each rank holds, and what views make of that.

A dim is a sum of products of factors, outermost first: ``4/tensor x 6 + 4/tensor x 6`` are two runs of 24 entries, of
each of which a rank of the axis holds an even share. A rank's piece holds its entries in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Sizes = Mapping[str, int]


class Factor(NamedTuple):
    """So many places, all of them here, or evenly and in runs over the ranks of an axis.

    Attributes:
        size: how many, over all ranks.
        axis: of the mesh.
    """

    size: int
    axis: str | None = None


Product = tuple[Factor, ...]
Dim = tuple[Product, ...]


class Indivisible(Exception):
    """No rank's piece can be viewed so while dims are divided over an axis.

    Attributes:
        axis: the one in the way.
    """

    def __init__(self, axis: str) -> None:
        super().__init__(axis)
        self.axis = axis


@dataclass(frozen=True)
class Division:
    """How each dim of a tensor is divided.

    Attributes:
        dims: in normal form (see :func:`dim_of`).
    """

    dims: tuple[Dim, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return tuple(length(dim) for dim in self.dims)

    @cached_property
    def axes(self) -> frozenset[str]:
        """Those over which any dim is divided."""
        return frozenset(axis for dim in self.dims for axis in axes_of(dim))

    def local_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """That of a rank's piece."""
        return tuple(local_length(dim, sizes) for dim in self.dims)

    def with_dim(self, place: int, dim: Dim) -> Division:
        """Another division of one dim."""
        return Division((*self.dims[:place], dim, *self.dims[place + 1 :]))

    def without(self, axes: Iterable[str]) -> Division:
        """Divided over other axes only."""
        return Division(tuple(strip(dim, frozenset(axes)) for dim in self.dims))

    def indices(self, ranks: Sizes, sizes: Sizes) -> tuple[np.ndarray, ...]:
        """By dim, which entries the rank at the places ``ranks`` of the axes holds."""
        return tuple(indices(dim, ranks, sizes) for dim in self.dims)

    def ranges(self, ranks: Sizes, sizes: Sizes) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The same as ranges ``(begin, end)``."""
        return tuple(_runs(found) for found in self.indices(ranks, sizes))

    def __str__(self) -> str:
        return "[" + ", ".join(" + ".join(_written(product) for product in dim) for dim in self.dims) + "]"


def _written(product: Product) -> str:
    return " x ".join(f"{size}/{axis}" if axis else str(size) for size, axis in product)


def _runs(found: np.ndarray) -> tuple[tuple[int, int], ...]:
    if not len(found):
        return ()
    cuts = [0, *(np.flatnonzero(np.diff(found) != 1) + 1).tolist(), len(found)]
    return tuple((int(found[begin]), int(found[end - 1]) + 1) for begin, end in pairwise(cuts))


@lru_cache(maxsize=4096)
def whole(shape: tuple[int, ...]) -> Division:
    """Nothing is divided."""
    return Division(tuple(whole_dim(size) for size in shape))


def divided_along(shape: Sequence[int], place: int, axis: str) -> Division:
    """One dim in runs over an axis."""
    shape = tuple(shape)
    place %= len(shape)
    return whole(shape).with_dim(place, dim_of([(Factor(shape[place], axis),)]))


def whole_dim(size: int) -> Dim:
    """A dim of which every rank holds all."""
    return ((Factor(size),),)


def dim_of(products: Iterable[Iterable[Factor]]) -> Dim:
    """The sum of products in normal form: two sums are equal if they divide a dim in the same way."""
    runs: list[tuple[int, Product]] = []
    for product in products:
        count, core = _core(product_of(product))
        if count == 0:
            continue
        if runs and runs[-1][1] == core:
            runs[-1] = (runs[-1][0] + count, core)
        else:
            runs.append((count, core))
    return tuple(product_of((Factor(count), *core)) for count, core in runs) or whole_dim(0)


def product_of(factors: Iterable[Factor]) -> Product:
    """In normal form: what follows a divided factor whole belongs to it."""
    found: list[Factor] = []
    for factor in factors:
        if factor.size == 1 and factor.axis is None:
            continue
        if found and factor.axis is None:
            found[-1] = Factor(found[-1].size * factor.size, found[-1].axis)
        else:
            found.append(factor)
    return tuple(found) or (Factor(1),)


def _core(product: Product) -> tuple[int, Product]:
    """How many times in a row, and what: all of a whole product is its count."""
    head = product[0]
    return (head.size, product[1:]) if head.axis is None else (1, product)


def volume(product: Product) -> int:
    """Entries of a product, over all ranks."""
    return math.prod(factor.size for factor in product)


def length(dim: Dim) -> int:
    """Entries of a dim, over all ranks."""
    return sum(map(volume, dim))


def local_volume(product: Product, sizes: Sizes) -> int:
    """Entries of a product that a rank holds."""
    return math.prod(size // sizes[axis] if axis else size for size, axis in product)


def local_length(dim: Dim, sizes: Sizes) -> int:
    """Entries of a dim that a rank holds."""
    return sum(local_volume(product, sizes) for product in dim)


def axes_of(dim: Dim) -> frozenset[str]:
    """Those over which a dim is divided."""
    return frozenset(axis for product in dim for _, axis in product if axis)


def product_axes(product: Product) -> frozenset[str]:
    """Those over which a product is divided."""
    return frozenset(axis for _, axis in product if axis)


def strip_product(product: Product, axes: frozenset[str]) -> Product:
    """The product, whole over some axes."""
    return product_of(Factor(size, None if axis in axes else axis) for size, axis in product)


def strip(dim: Dim, axes: frozenset[str]) -> Dim:
    """The dim, whole over some axes."""
    return dim if axes.isdisjoint(axes_of(dim)) else dim_of(strip_product(product, axes) for product in dim)


def even(dim: Dim) -> Dim:
    """The dim, whole over axes that divide some of its runs only: sums over the axis would count the others twice."""
    if len(dim) == 1:
        return dim
    everywhere = frozenset[str].intersection(*map(product_axes, dim))
    return strip(dim, axes_of(dim) - everywhere)


def indices(dim: Dim, ranks: Sizes, sizes: Sizes) -> np.ndarray:
    """Which entries of a dim a rank holds, ascending."""
    found, begin = [], 0
    for product in dim:
        grid = np.arange(volume(product)).reshape([factor.size for factor in product])
        for place, (size, axis) in enumerate(product):
            if axis:
                share = size // sizes[axis]
                grid = grid.take(range(ranks[axis] * share, (ranks[axis] + 1) * share), place)
        found.append(grid.reshape(-1) + begin)
        begin += volume(product)
    return np.concatenate(found)


def fits(division: Division, sizes: Sizes) -> bool:
    """Whether every share is even."""
    factors = (factor for dim in division.dims for product in dim for factor in product)
    return all(axis is None or size % sizes[axis] == 0 for size, axis in factors)


# --- sums: runs of a dim


def align(first: Dim, second: Dim) -> list[tuple[Product, Product]] | None:
    """Two dims of one length, cut at common places; ``None`` where there are none."""
    lefts, rights, pairs = list(first)[::-1], list(second)[::-1], []
    while lefts and rights:
        left, right = lefts.pop(), rights.pop()
        size = min(volume(left), volume(right))
        cut_left, cut_right = _cut(left, size), _cut(right, size)
        if cut_left is None or cut_right is None:
            return None
        pairs.append((cut_left[0], cut_right[0]))
        lefts += cut_left[1:]
        rights += cut_right[1:]
    return pairs


def _cut(product: Product, size: int) -> tuple[Product, ...] | None:
    """The first ``size`` entries of a product, and the rest."""
    if volume(product) == size:
        return (product,)
    count, core = _core(product)
    step = volume(core)
    if size % step or size // step >= count:
        return None
    begin = size // step
    return product_of((Factor(begin), *core)), product_of((Factor(count - begin), *core))


def meet(first: Dim, second: Dim) -> Dim:
    """A dim divided as ``first``, and as ``second`` where that only divides it further."""
    if first == second:
        return first
    pairs = align(first, second)
    if pairs is None:
        return first if axes_of(first) else second
    return dim_of(right if _divides_further(left, right) else left for left, right in pairs)


def _divides_further(coarse: Product, fine: Product) -> bool:
    return strip_product(fine, product_axes(fine) - product_axes(coarse)) == coarse


def narrowed(dim: Dim, begin: int, size: int) -> Dim:
    """Entries ``begin`` to ``begin + size`` of a dim.

    Raises:
        Indivisible: they begin or end within a run that is divided.
    """
    kept: list[Product] = []
    for product in dim:
        extent = volume(product)
        low, high = max(begin, 0), min(begin + size, extent)
        if low < high:
            kept.append(_middle(product, low, high))
        begin -= extent
    return dim_of(kept)


def _middle(product: Product, low: int, high: int) -> Product:
    if (low, high) == (0, volume(product)):
        return product
    _, core = _core(product)
    step = volume(core)
    if low % step or high % step:
        raise Indivisible(next(factor.axis for factor in product if factor.axis))
    return product_of((Factor((high - low) // step), *core))


def local_offset(dim: Dim, begin: int, sizes: Sizes) -> int:
    """Place in a rank's piece at which entry ``begin`` of a dim, that :func:`narrowed` accepts, stands."""
    offset = 0
    for product in dim:
        if begin <= 0:
            break
        taken = min(begin, volume(product))
        offset += taken * local_volume(product, sizes) // volume(product)
        begin -= taken
    return offset


# --- products: views


def reshaped(division: Division, shape: Sequence[int], sizes: Sizes) -> Division:
    """Division of the same entries under another shape.

    Raises:
        Indivisible: the new dims would cut through runs that are divided.
    """
    if not division.axes:
        return whole(tuple(shape))
    if 0 in division.shape:
        raise Indivisible(min(division.axes))
    dims: list[Dim] = []
    for olds, news in _groups(division.dims, shape):
        dims += _regrouped(olds, news, sizes)
    return Division(tuple(dims))


def _groups(dims: Sequence[Dim], shape: Sequence[int]) -> Iterable[tuple[list[Dim], list[int]]]:
    """Smallest runs of old and new dims that hold the same entries."""
    olds, news = list(dims)[::-1], list(shape)[::-1]
    while olds or news:
        old, new = [olds.pop()] if olds else [], [news.pop()] if news else []
        before, after = math.prod(map(length, old)), math.prod(new)
        while before != after:
            if before < after:
                old.append(olds.pop())
                before *= length(old[-1])
            else:
                new.append(news.pop())
                after *= new[-1]
        yield old, new


def _regrouped(olds: list[Dim], news: list[int], sizes: Sizes) -> list[Dim]:
    olds = [dim for dim in olds if length(dim) != 1]
    places = [place for place, size in enumerate(news) if size != 1]
    found = [whole_dim(1) for _ in news]
    if len(olds) == 1 and len(places) == 1:
        found[places[0]] = olds[0]
    elif places:
        for place, dim in zip(places, _split(_flat(olds), [news[place] for place in places], sizes), strict=True):
            found[place] = dim
    return found


def _flat(dims: list[Dim]) -> list[Product]:
    """One dim of several."""
    products = list(dims[0])
    for dim in dims[1:]:
        if len(dim) > 1:
            raise Indivisible(min(axes_of(dim)))
        products = [product + dim[0] for product in products]
    return list(dim_of(products))


def _split(products: list[Product], shape: list[int], sizes: Sizes) -> list[Dim]:
    """Several dims of one."""
    inner: list[Dim] = []
    for size in reversed(shape[1:]):
        parts = [_take(product, size, sizes) for product in products]
        if len({part for _, part in parts}) > 1:
            raise Indivisible(min(axes_of(tuple(products))))
        products = [rest for rest, _ in parts]
        inner.append(dim_of([parts[0][1]]))
    return [dim_of(products), *reversed(inner)]


def _take(product: Product, size: int, sizes: Sizes) -> tuple[Product, Product]:
    """The innermost factors of a product that make ``size``, after the rest."""
    rest, taken, missing = list(product), list[Factor](), size
    while missing > 1:
        if not rest:
            raise Indivisible(_any_axis(product))
        factor = rest.pop()
        if missing % factor.size == 0:
            taken.append(factor)
            missing //= factor.size
            continue
        outer = factor.size // missing
        if factor.size % missing or (factor.axis and outer % sizes[factor.axis]):
            raise Indivisible(factor.axis or _any_axis(product))
        rest.append(Factor(outer, factor.axis))
        taken.append(Factor(missing))
        missing = 1
    return product_of(rest), product_of(reversed(taken))


def _any_axis(product: Product) -> str:
    return min(product_axes(product), default="")
