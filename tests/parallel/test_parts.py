from __future__ import annotations

from itertools import pairwise, product

import torch
from hypothesis import given
from hypothesis import strategies as st

from modelwright.parallel.parts import Part


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(max(1, torch.Size(shape).numel())).view(shape) if shape else torch.tensor(7)


@st.composite
def ranges(draw: st.DrawFn, size: int) -> tuple[tuple[int, int], ...]:
    """Some stretches of a dim, in any order, none overlapping."""
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=5)) | {0, size})
    stretches = list(pairwise(cuts))
    return tuple(draw(st.permutations(draw(st.lists(st.sampled_from(stretches), unique=True)) if stretches else [])))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    shape = tuple(draw(st.lists(st.integers(1, 7), max_size=3)))
    return Part(shape, tuple(draw(ranges(size)) for size in shape))


def indices(part: Part) -> list[list[int]]:
    return [[place for start, stop in dim for place in range(start, stop)] for dim in part.ranges]


@given(parts())
def test_a_piece_is_what_indexing_gives(part: Part) -> None:
    whole = numbered(part.shape)
    piece = part.take(whole)
    assert tuple(piece.shape) == part.local_shape
    expected = [int(whole[place]) for place in product(*indices(part))]
    assert piece.flatten().tolist() == expected
    assert part.entries == len(expected)


@given(parts())
def test_what_was_taken_is_put_back_and_nothing_else(part: Part) -> None:
    whole = numbered(part.shape)
    target = torch.full(part.shape, -1)
    part.put(target, part.take(whole))
    places = set(product(*indices(part)))
    for place in product(*map(range, part.shape)):
        assert int(target[place]) == (int(whole[place]) if place in places else -1)


@given(parts(), st.data())
def test_a_part_of_a_part_is_a_part_of_the_whole(part: Part, data: st.DataObject) -> None:
    if not part.shape:
        return
    dim = data.draw(st.integers(0, len(part.shape) - 1))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, part.local_shape[dim])] * 2)))
    whole = numbered(part.shape)
    assert torch.equal(part.rows(dim, start, stop).take(whole), part.take(whole).narrow(dim, start, stop - start))


@given(parts())
def test_a_part_is_read_back_from_json(part: Part) -> None:
    assert Part.from_json(part.to_json()) == part


def test_the_whole_is_whole_and_a_piece_is_not() -> None:
    assert Part.whole((2, 3)).is_whole and Part.whole(()).is_whole
    assert not Part((2, 3), (((0, 1),), ((0, 3),))).is_whole
    assert not Part((2,), (((1, 2), (0, 1)),)).is_whole  # all of it, but in another order
