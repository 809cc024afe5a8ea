from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.data.sampling.steps import Indices, Numbers, drawn, members, surprise, tally
from tests.data.sampling.test_global import Bringing

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import HOLE, LONGEST, Order
from modelwright.data.sampling.poisson_sampling import Poisson

STEPS = 24_000
Members = NDArray[np.bool_]


def _subsets(table: Members, batch: int) -> float:
    """Surprise of how often each subset of few samples is drawn; independent samples decide all of it."""
    steps, length = table.shape
    chance = batch / length
    subsets = product([False, True], repeat=length)
    expected = {each: steps * chance ** sum(each) * (1 - chance) ** (length - sum(each)) for each in subsets}
    return surprise(tally(table), expected)


def _inclusions(table: Members, batch: int) -> float:
    """Surprise of how often each sample is drawn."""
    steps, length = table.shape
    chance = batch / length
    chi = ((table.sum(0) - steps * chance) ** 2 / (steps * chance * (1 - chance))).sum()
    return float((chi - length) / math.sqrt(2 * length))


def _pairs(table: Members, batch: int) -> float:
    """How far the mean number of pairs in a step lies from that of independent samples, in standard deviations."""
    steps, length = table.shape
    sizes = table.sum(1, dtype=np.int64)
    mean = length * (length - 1) * (batch / length) ** 2
    return float(abs((sizes * (sizes - 1)).mean() - mean) / max((sizes * (sizes - 1)).std() / math.sqrt(steps), 1e-9))


def _independent(length: int, batch: int) -> Members:
    return np.random.default_rng(1).random((STEPS, length)) < batch / length


def _fixed(length: int, batch: int) -> Members:
    """Steps of one size: every sample as often as it should, and no two independent."""
    order = Order(length, 3)
    return members(order.at(np.arange(STEPS)[:, None], np.arange(batch)), length)


def _favoured(length: int, batch: int) -> Members:
    """One sample comes too often."""
    table = _independent(length, batch)
    table[:, 0] |= np.random.default_rng(2).random(STEPS) < 0.05
    return table


def _constant(length: int, batch: int) -> Members:
    """Right numbers, but always of the first samples of one permutation."""
    sizes = _independent(length, batch).sum(1)
    return np.argsort(Order(length, 3)(np.arange(length)))[None] < sizes[:, None]


def test_every_subset_is_as_likely_as_independent_samples_make_it() -> None:
    assert abs(_subsets(members(drawn(Poisson(), 5, batch=2, steps=STEPS), 5), 2)) < 4
    assert abs(_subsets(_independent(5, 2), 2)) < 4


@pytest.mark.parametrize("broken", [_fixed, _favoured, _constant])
def test_the_judge_of_subsets_notices(broken: Callable[[int, int], Members]) -> None:
    assert _subsets(broken(5, 2), 2) > 10


@pytest.mark.parametrize("apart", [1, 2, 64])
def test_steps_are_independent(apart: int) -> None:
    table = members(drawn(Poisson(), 4, batch=2, steps=STEPS + apart), 4)
    assert abs(_subsets(np.hstack([table[:-apart], table[apart:]]), 4)) < 4
    assert _subsets(np.hstack([table, table]), 4) > 10


def test_samples_and_pairs_of_larger_data_are_drawn_as_often_as_they_should_be() -> None:
    table = members(drawn(Poisson(), 100, batch=10, steps=STEPS, seed=4), 100)
    assert abs(_inclusions(table, 10)) < 4
    assert _pairs(table, 10) < 4
    assert _inclusions(_favoured(100, 10), 10) > 10
    assert _pairs(_fixed(100, 10), 10) > 10


def test_seeds_are_unrelated() -> None:
    first, second = (members(drawn(Poisson(), 4, batch=2, steps=STEPS, seed=seed), 4) for seed in (0, 1))
    assert abs(_subsets(np.hstack([first, second]), 4)) < 4


def test_holes_are_spread_evenly_and_at_random() -> None:
    steps = drawn(Poisson(), 1000, batch=6, steps=STEPS // 2) != HOLE
    count, per_place, mean = len(steps), steps.sum(0), steps.mean()
    chi = ((per_place - mean * count) ** 2 / (mean * (1 - mean) * count)).sum()
    assert abs(chi - steps.shape[1]) / math.sqrt(2 * steps.shape[1]) < 4
    half = steps.shape[1] // 2
    assert abs(steps[:, :half].sum() - steps[:, -half:].sum()) < 4 * math.sqrt(steps.sum())
    assert np.sort(steps)[:, ::-1].sum(0)[0] - per_place[0] > count / 10  # holes at the end would be seen


@given(length=st.integers(1, LONGEST), data=st.data())
def test_no_sample_is_twice_in_a_step(length: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, min(length, 200)))
    steps = drawn(Poisson(), length, batch=batch, steps=3, first=data.draw(st.integers(0, 10**9)))
    assert steps.min() >= HOLE
    assert steps.max() < length
    for step in steps:
        there = step[step != HOLE]
        assert len(set(there.tolist())) == len(there)


@given(length=st.integers(1, LONGEST), data=st.data())
def test_a_position_does_not_depend_on_its_neighbours(length: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, min(length, 100)))
    positions = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12))
    order = Poisson().order(Numbers(length), batch=batch, seed=2)
    assert order(positions).tolist() == [int(order([position])[0]) for position in positions]
    assert order(np.array([positions, positions])).shape == (2, len(positions))


def test_a_batch_of_all_samples_draws_each_every_time() -> None:
    steps: Indices = drawn(Poisson(), 12, batch=12, steps=50)
    assert (np.sort(steps) == np.arange(12)).all()


def test_it_never_changes() -> None:
    assert drawn(Poisson(), 6, batch=2, steps=4, seed=0).tolist() == GOLDEN
    (large,) = drawn(Poisson(), 2**60, batch=4, steps=1, first=10**9, seed=-5)
    assert len(large) == 31
    assert {place: index for place, index in enumerate(large.tolist()) if index != HOLE} == GOLDEN_LARGE


@pytest.mark.parametrize(
    ("dataset", "batch", "said"),
    [
        (Numbers(3), 4, "4 samples on average cannot be drawn from 3"),
        (Numbers(3), 0, "a batch of 0 samples draws nothing"),
        (Bringing(3), 2, "order that the data brings"),
    ],
)
def test_what_does_not_fit_is_refused(dataset: Any, batch: int, said: str) -> None:
    for ask in (Poisson().positions, lambda data, batch: Poisson().order(data, batch=batch, seed=0)):
        with pytest.raises(ModelwrightError, match=said):
            ask(dataset, batch=batch)  # type: ignore[operator]


GOLDEN = [[0, -1, -1, -1, -1, -1], [0, -1, -1, -1, -1, -1], [-1, -1, 3, -1, -1, 1], [-1, 0, -1, -1, -1, -1]]
GOLDEN_LARGE = {0: 261748897788185445, 15: 832142715934762457, 24: 889895047621928570}
"""Of 31 positions."""
