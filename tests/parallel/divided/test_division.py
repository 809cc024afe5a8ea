"""The arithmetic of divisions against numpy's own indexing."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.parallel.divided.division import (
    Dim,
    Division,
    Factor,
    Indivisible,
    axes_of,
    dim_of,
    indices,
    length,
    local_length,
    local_offset,
    meet,
    narrowed,
    reshaped,
    whole_dim,
)

SIZES = {"context": 2, "tensor": 2}
RANKS = [dict(zip(SIZES, places, strict=True)) for places in product(range(2), range(2))]

Axis = st.sampled_from([None, "tensor"])


@st.composite
def dims(draw: st.DrawFn, terms: int = 3) -> Dim:
    runs = []
    for _ in range(draw(st.integers(1, terms))):
        factors = [Factor(draw(st.sampled_from([1, 2, 3]))), Factor(draw(st.sampled_from([2, 4, 6])), draw(Axis))]
        runs.append([*factors, Factor(draw(st.sampled_from([1, 2])))])
    return dim_of(runs)


def one(division: Division, ranks: dict[str, int]) -> np.ndarray:
    """The piece of a numbered array."""
    whole = np.arange(math.prod(division.shape)).reshape(division.shape)
    return whole[np.ix_(*division.indices(ranks, SIZES))]


@given(dims())
def test_pieces_cover_each_entry_once_or_on_all(dim: Dim) -> None:
    found = [indices(dim, {"tensor": rank, "context": 0}, SIZES) for rank in range(2)]
    assert all(len(piece) == local_length(dim, SIZES) and (np.diff(piece) > 0).all() for piece in found)
    assert set(found[0]) | set(found[1]) == set(range(length(dim)))
    division = Division((dim,))
    again = [np.concatenate([np.arange(*run) for run in division.ranges(RANKS[rank], SIZES)[0]]) for rank in range(2)]
    assert all(np.array_equal(piece, runs) for piece, runs in zip(found, again, strict=True))


@given(dims(), dims())
def test_dims_are_equal_if_they_divide_alike(first: Dim, second: Dim) -> None:
    if length(first) == length(second):
        alike = all(np.array_equal(indices(first, ranks, SIZES), indices(second, ranks, SIZES)) for ranks in RANKS)
        assert alike == (first == second)


@given(dims(), st.data())
def test_a_run_of_a_dim_is_that_of_each_piece(dim: Dim, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, length(dim)))
    size = data.draw(st.integers(0, length(dim) - begin))
    try:
        found = narrowed(dim, begin, size)
    except Indivisible:
        assert axes_of(dim)
        return
    for ranks in RANKS:
        offset = local_offset(dim, begin, SIZES)
        piece = indices(dim, ranks, SIZES)[offset : offset + local_length(found, SIZES)]
        assert np.array_equal(piece - begin, indices(found, ranks, SIZES))


@st.composite
def views(draw: st.DrawFn) -> tuple[Division, tuple[int, ...]]:
    """A division, and another shape of as many entries."""
    places = draw(st.permutations([draw(dims()), draw(dims(1)), whole_dim(draw(st.integers(1, 3)))]))
    divided, found = False, list[Dim]()
    for dim in places:
        found.append(whole_dim(length(dim)) if divided and axes_of(dim) else dim)
        divided |= bool(axes_of(found[-1]))
    primes = [prime for dim in found for prime in _primes(length(dim))]
    cuts = [0, *sorted(draw(st.lists(st.integers(0, len(primes)), max_size=3))), len(primes)]
    order = primes if draw(st.booleans()) else sorted(primes)
    return Division(tuple(found)), tuple(math.prod(order[low:high]) for low, high in pairwise(cuts))


def _primes(number: int) -> list[int]:
    for prime in range(2, number + 1):
        if number % prime == 0:
            return [prime, *_primes(number // prime)]
    return []


@settings(max_examples=300)
@given(views())
def test_a_view_holds_the_same_entries_on_each_rank(view: tuple[Division, tuple[int, ...]]) -> None:
    division, shape = view
    try:
        found = reshaped(division, shape, SIZES)
    except Indivisible:
        assert division.axes
        return
    assert found.shape == shape
    for ranks in RANKS:
        before, after = one(division, ranks), one(found, ranks)
        assert after.shape == found.local_shape(SIZES)
        assert np.array_equal(before.reshape(-1), after.reshape(-1))


@given(dims(), dims())
def test_two_dims_meet_in_one_that_is_divided_as_either(first: Dim, second: Dim) -> None:
    second = whole_dim(length(first)) if length(first) != length(second) else second
    found = meet(first, second)
    assert length(found) == length(first)
    assert local_length(found, SIZES) <= local_length(first, SIZES) or not axes_of(first)


def test_fused_heads_are_seen_through_their_views() -> None:
    fused = Division((whole_dim(5), dim_of([(Factor(4, "tensor"), Factor(6))] * 3)))
    split = reshaped(fused, (5, 3, 4, 6), SIZES)
    assert str(split) == "[5, 3, 4/tensor, 6]"
    assert reshaped(split, (5, 72), SIZES) == fused
    grouped = Division((dim_of([(Factor(8, "tensor"), Factor(6)), (Factor(2, "tensor"), Factor(6))]),))
    assert str(reshaped(grouped, (10, 6), SIZES)) == "[8/tensor + 2/tensor, 6]"
    times = Division((whole_dim(8), dim_of([(Factor(128, "context"),)])))
    assert str(reshaped(times, (1024,), SIZES)) == "[8 x 128/context]"
