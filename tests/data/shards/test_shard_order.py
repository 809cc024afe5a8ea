"""The order of streamed shards: an exact permutation, and few shards at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.shards.order import ShardOrder

COUNTS = st.lists(st.integers(0, 15), min_size=1, max_size=16).filter(lambda counts: sum(counts) > 0)


@settings(max_examples=40)
@given(COUNTS, st.integers(1, 12), st.integers(0, 2**64), st.integers(0, 50))
def test_every_epoch_holds_each_sample_once(counts: list[int], together: int, seed: int, epoch: int) -> None:
    order = ShardOrder(counts, seed=seed, together=together)
    length = sum(counts)
    indices = order(np.arange(epoch * length, (epoch + 1) * length))
    assert np.array_equal(np.sort(indices), np.arange(length))


@settings(max_examples=20)
@given(COUNTS, st.integers(1, 12), st.data())
def test_a_position_means_the_same_whichever_it_is_asked_with(
    counts: list[int], together: int, data: st.DataObject
) -> None:
    length = sum(counts)
    positions = np.array(data.draw(st.lists(st.integers(0, 5 * length), min_size=1, max_size=8)))
    whole = ShardOrder(counts, seed=3, together=together)(np.arange(5 * length + 1))
    fresh = ShardOrder(counts, seed=3, together=together)
    assert np.array_equal(fresh(positions), whole[positions])
    assert [int(fresh(np.array([position]))[0]) for position in positions] == whole[positions].tolist()
    assert fresh(positions.reshape(1, -1)).shape == (1, len(positions))


@settings(max_examples=20)
@given(COUNTS, st.integers(1, 12))
def test_only_one_group_of_shards_is_open_at_a_time(counts: list[int], together: int) -> None:
    """The definition, done by hand: runs of positions touch the shards of one group and then those of the next."""
    length, ends = sum(counts), np.cumsum(counts)
    shards = np.searchsorted(ends, ShardOrder(counts, seed=1, together=together)(np.arange(length)), side="right")
    first, last = {}, {}
    for position, shard in enumerate(shards.tolist()):
        first.setdefault(shard, position)
        last[shard] = position
    for position in range(length):
        alive = [shard for shard in first if first[shard] <= position <= last[shard]]
        assert len(alive) <= together


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 100))
def test_the_following_shards_are_those_that_come_next(counts: list[int], together: int, seed: int) -> None:
    order, length = ShardOrder(counts, seed=seed, together=together), sum(counts)
    shards = np.searchsorted(np.cumsum(counts), order(np.arange(2 * length)), side="right").tolist()
    groups: list[set[int]] = []
    for position in range(2 * length):
        order(np.array([position]))
        if not groups or set(order.following()) != groups[-1]:
            groups.append(set(order.following()))
    assert all(any(shard in group for group in groups) for shard in shards[length:])


def test_windows_of_one_group_are_mixed_and_epochs_differ() -> None:
    order = ShardOrder([50] * 8, seed=0, together=4)
    first, second = order(np.arange(400)), order(np.arange(400, 800))
    assert not np.array_equal(first, second)
    shards = first[:40] // 50
    assert len(np.unique(shards)) == 4, "the first steps should mix the four shards of the group"
    assert np.abs(np.diff(first[:40])).min() >= 1 and not np.array_equal(np.sort(first[:40]), first[:40])
    assert not np.array_equal(first, ShardOrder([50] * 8, seed=1, together=4)(np.arange(400)))


def test_all_shards_together_are_a_shuffle_of_everything() -> None:
    indices = ShardOrder([100] * 10, seed=0, together=10)(np.arange(1000))
    correlation = np.corrcoef(indices, np.arange(1000))[0, 1]
    assert abs(correlation) < 0.1
    grouped = ShardOrder([100] * 10, seed=0, together=1)(np.arange(1000)) // 100
    assert len(np.unique(grouped[:100])) == 1, "the negative control: one shard after the other"


def test_the_order_never_changes() -> None:
    """These numbers are what version 1 gave; another order would spoil the resume of every run."""
    assert ShardOrder([3, 0, 5, 2], seed=7, together=2)(np.arange(12)).tolist() == FIXED


def test_what_cannot_be_ordered_is_refused() -> None:
    for counts, together in (([0, 0], 2), ([3], 0)):
        with pytest.raises(ModelwrightError, match="cannot order"):
            ShardOrder(counts, seed=0, together=together)
    with pytest.raises(ModelwrightError, match="no position -1"):
        ShardOrder([3], seed=0, together=1)(np.array([-1]))


FIXED = [0, 7, 6, 2, 3, 4, 1, 5, 9, 8, 9, 8]
