from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.mixture.interleaving import BOUND, Interleaving
from modelwright.data.mixture.weights import LARGEST, exact

WEIGHTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
UNEVEN = st.lists(st.sampled_from([0, 1, 2, 3, 7, 100, 101, 1000, 4999]), min_size=1, max_size=12).filter(any)


def worst(sources: np.ndarray, weights: Sequence[int]) -> Fraction:
    """How far any window is off from its share of any source, at most.

    A window is a difference of two beginnings: it is off by as much as the largest and the smallest of these differ.
    """
    total = sum(weights)
    places = np.arange(len(sources) + 1)
    found = []
    for source, weight in enumerate(weights):
        counts = np.append(0, np.cumsum(sources == source))
        off = counts * total - places * weight
        found.append(Fraction(int(off.max() - off.min()), total))
    return max(found)


@given(weights=WEIGHTS | UNEVEN, begin=st.integers(0, 10**15))
def test_every_window_holds_its_shares(weights: list[int], begin: int) -> None:
    sources, _ = Interleaving(weights).locate(np.arange(begin, begin + min(3000, 2 * sum(weights))))
    assert worst(sources, weights) < BOUND


def test_the_check_can_fail() -> None:
    blocks = np.repeat([0, 1], [12, 4])  # 3 to 1, but not mixed
    assert worst(np.tile(blocks, 5), [3, 1]) > 2
    assert worst(np.tile(np.repeat([0, 1], [48, 16]), 5), [3, 1]) > BOUND
    assert worst(np.random.default_rng(0).integers(0, 2, 3000), [1, 1]) > BOUND


@given(weights=WEIGHTS)
def test_whole_periods_are_exact(weights: list[int]) -> None:
    sources, _ = Interleaving(weights).locate(np.arange(3 * sum(weights)))
    for period in sources.reshape(3, -1):
        assert np.bincount(period, minlength=len(weights)).tolist() == weights


@given(weights=WEIGHTS)
def test_ranks_count_the_samples_of_a_source(weights: list[int]) -> None:
    interleaving = Interleaving(weights)
    sources, ranks = interleaving.locate(np.arange(2 * sum(weights) + 3))
    seen = [0] * len(weights)
    for place, (source, rank) in enumerate(zip(sources.tolist(), ranks.tolist(), strict=True)):
        assert interleaving.counts(place) == seen
        assert rank == seen[source]
        seen[source] += 1


@given(weights=UNEVEN, places=st.lists(st.integers(0, 2**62), max_size=20))
def test_a_place_does_not_depend_on_its_neighbours(weights: list[int], places: list[int]) -> None:
    interleaving = Interleaving(weights)
    together = np.stack(interleaving.locate(np.array(places, dtype=np.int64)))
    alone = [np.concatenate(interleaving.locate(np.array([place]))).tolist() for place in places]
    assert together.T.tolist() == alone
    for place, (source, rank) in zip(places, alone, strict=True):
        assert interleaving.counts(place)[source] == rank
        assert sum(interleaving.counts(place)) == place


def test_the_largest_weights_do_not_overflow() -> None:
    interleaving = Interleaving([LARGEST - 1, 1])
    places = np.array([0, LARGEST - 1, LARGEST, 2**62, 2**62 + LARGEST - 1])
    sources, ranks = interleaving.locate(places)
    assert sources.tolist() == [0, 1, 0, 0, 1]
    assert ranks.tolist() == [0, 0, LARGEST - 1, 2**31 * (LARGEST - 1), 2**31]


def test_it_never_changes() -> None:
    """Frozen: a run that resumes under another version must see the same samples."""
    sources, ranks = Interleaving([7, 3, 0, 1, 1]).locate(np.arange(24))
    assert sources.tolist() == GOLDEN
    assert ranks[-6:].tolist() == GOLDEN_RANKS


@given(weights=st.dictionaries(st.text(max_size=3), st.integers(0, 1000), min_size=1, max_size=8))
def test_decimals_are_kept_to(weights: dict[str, int]) -> None:
    if not any(weights.values()):
        return
    tenths = exact({name: weight / 10 for name, weight in weights.items()})
    assert tenths == exact(weights)
    names = sorted(weights)
    assert [Fraction(weight, sum(tenths)) for weight in tenths] == [
        Fraction(weights[name], sum(weights.values())) for name in names
    ]


def test_weights_in_words_people_write() -> None:
    assert exact({"b": 0.3, "a": 0.7}) == [7, 3]
    assert exact({"a": 1.2e12, "b": 3e11}) == [4, 1]
    assert exact({"a": 1 / 3, "b": 0}) == [1, 0]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": -1, "b": 2}, "weight of 'a' is -1"),
        ({"a": float("nan"), "b": 2}, "weight of 'a' is nan"),
        ({"a": 0, "b": 0.0}, "no source has a weight"),
        ({"a": 1 / 3, "b": 1 / 7}, "a: 0.7, b: 0.3"),
    ],
)
def test_weights_that_cannot_be_kept_to_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        exact(weights)


GOLDEN = [0, 0, 1, 0, 1, 0, 0, 4, 0, 1, 0, 3, 0, 0, 1, 0, 1, 0, 0, 4, 0, 1, 0, 3]
GOLDEN_RANKS = [11, 1, 12, 5, 13, 1]
