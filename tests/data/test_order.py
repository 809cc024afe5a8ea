from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import LONGEST, Order, words

DRAWS = 24_000


@given(length=st.integers(1, 700), seed=st.integers(), epoch=st.integers(0, 10**9))
def test_each_epoch_holds_every_index_once(length: int, seed: int, epoch: int) -> None:
    indices = Order(length, seed)(np.arange(length) + epoch * length)
    assert sorted(indices) == list(range(length))


@given(length=st.integers(1, 2**40), seed=st.integers(0, 99), data=st.data())
def test_a_position_does_not_depend_on_its_neighbours(length: int, seed: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
    order = Order(length, seed)
    assert order(positions).tolist() == [int(order([position])[0]) for position in positions]


@given(length=st.integers(1, LONGEST))
def test_indices_lie_inside_any_length(length: int) -> None:
    indices = Order(length)([0, length - 1, length // 2, 2**63 - 1])
    assert indices.dtype == np.int64
    assert 0 <= indices.min() <= indices.max() < length


def test_epochs_and_seeds_differ() -> None:
    first, second = Order(1000, 1)(np.arange(2000)).reshape(2, 1000)
    other = Order(1000, 2)(np.arange(1000))
    for pair in ((first, second), (first, other), (first, np.arange(1000))):
        assert (pair[0] == pair[1]).mean() < 0.02


def test_shape_is_kept_and_nothing_may_be_asked() -> None:
    assert Order(10)(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    assert Order(10)([]).shape == (0,)


@given(length=st.integers(1, LONGEST), epochs=st.lists(st.integers(0, 2**62), min_size=1, max_size=5), data=st.data())
def test_any_place_of_any_epoch_is_found(length: int, epochs: list[int], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5, unique=True))
    order = Order(length, 3)
    table = order.at(np.array(epochs)[:, None], places)
    assert table.shape == (len(epochs), len(places))
    assert all(len(set(row)) == len(places) for row in table.tolist())
    assert [order.at(epochs[-1], place).tolist() for place in places] == table[-1].tolist()


def test_places_of_an_epoch_are_its_positions() -> None:
    order = Order(100, 7)
    assert order.at(3, np.arange(100)).tolist() == order(np.arange(300, 400)).tolist()


@pytest.mark.parametrize("length", [64, 65, 127, 128, 129, 4095, 4096, 4097])
def test_the_network_is_a_permutation_at_every_border_of_its_width(length: int) -> None:
    for epoch in range(5):
        assert (np.sort(Order(length, 2).at(epoch, np.arange(length))) == np.arange(length)).all()


def test_far_positions_take_no_longer() -> None:
    order = Order(10**9, seed=3)
    started = time.perf_counter()
    order(np.arange(10**12, 10**12 + 512))
    assert time.perf_counter() - started < 0.5


def test_order_never_changes() -> None:
    """Frozen: a run that resumes under another version must see the same samples."""
    assert Order(10, 0)(np.arange(20)).tolist() == GOLDEN_SMALL
    assert Order(2**40 + 7, -5)([0, 1, 2**40 + 7, 10**15]).tolist() == GOLDEN_LARGE


def _permutations(indices: np.ndarray, length: int) -> float:
    """Chi-square of the permutations of many epochs, in standard deviations from what chance gives."""
    drawn = Counter(map(tuple, indices.reshape(-1, length).tolist()))
    expected = DRAWS / math.factorial(length)
    chi = sum((drawn[each] - expected) ** 2 / expected for each in permutations(range(length)))
    freedom = math.factorial(length) - 1
    return (chi - freedom) / math.sqrt(2 * freedom)


def _successors(indices: np.ndarray, length: int) -> float:
    """As above, of which index follows which within an epoch."""
    epochs = indices.reshape(-1, length)
    pairs = epochs[:, :-1].ravel() * length + epochs[:, 1:].ravel()
    counts = np.bincount(pairs, minlength=length**2).reshape(length, length)
    expected = len(pairs) / (length * (length - 1))
    off = counts[~np.eye(length, dtype=bool)]
    freedom = length * (length - 1) - 1
    return float((((off - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("length", [3, 4, 5])
def test_all_permutations_are_equally_likely(length: int) -> None:
    assert abs(_permutations(Order(length, 11)(np.arange(length * DRAWS)), length)) < 4


def test_neighbours_are_unrelated() -> None:
    assert abs(_successors(Order(50, 11)(np.arange(50 * 2000)), 50)) < 4


def _bits(drawn: np.ndarray) -> float:
    """How far the 64 counts of set bits lie from half, in standard deviations of their chi-square."""
    bits = np.unpackbits(drawn.astype("<u8").view(np.uint8)).reshape(-1, 64).sum(0, dtype=np.int64)
    chi = ((bits - len(drawn) / 2) ** 2 / (len(drawn) / 4)).sum()
    return float((chi - 64) / math.sqrt(2 * 64))


def test_words_are_random_and_so_are_their_differences() -> None:
    drawn = words(5, np.arange(20_000))
    assert len(set(drawn.tolist())) == 20_000
    assert abs(_bits(drawn)) < 4
    assert abs(_bits(drawn[1:] ^ drawn[:-1])) < 4
    assert abs(_bits(words(6, np.arange(20_000)) ^ drawn)) < 4
    assert _bits(np.arange(20_000, dtype=np.uint64)) > 10


def test_words_never_change() -> None:
    assert words(-5, [0, 1, 2**62]).tolist() == GOLDEN_WORDS
    assert int(words(2**64 - 5, 0)) == GOLDEN_WORDS[0]


@pytest.mark.parametrize(("judge", "length"), [(_permutations, 4), (_successors, 50)])
def test_the_judges_notice_rotations(judge: Callable[[np.ndarray, int], float], length: int) -> None:
    starts = np.random.default_rng(0).integers(0, length, DRAWS)
    rotated = (starts[:, None] + np.arange(length)) % length
    assert judge(rotated, length) > 10


@pytest.mark.parametrize("length", [0, -1, LONGEST + 1])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises(ModelwrightError, match="cannot order"):
        Order(length)


def test_negative_positions_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="positions count from 0"):
        Order(10)([3, -1])


GOLDEN_SMALL = [8, 5, 7, 1, 6, 4, 2, 9, 0, 3, 2, 3, 1, 8, 6, 7, 0, 5, 9, 4]
GOLDEN_LARGE = [332707662704, 870844364977, 1060973450837, 999104427147]
GOLDEN_WORDS = [4479268469299486454, 4595956838403869223, 17008714077735265872]
