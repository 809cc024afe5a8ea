from __future__ import annotations

import json
import pickle
import time
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.mixture.examples import Lengths

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.loader import Loader
from modelwright.data.mixture.joined import Mixed
from modelwright.data.mixture.schedule import Schedule
from modelwright.data.reading.sending import pickled

NAMES = ("a", "b", "c", "d")
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=4)
POSITIVE = st.lists(st.integers(1, 9), min_size=4, max_size=4)


def mixed(lengths: Mapping[str, int], *phases: tuple[int, Mapping[str, float]]) -> Mixed:
    return Mixed({name: Lengths(length) for name, length in lengths.items()}, Schedule(dict(phases)))


def drawn(dataset: Mixed, positions: np.ndarray, seed: int = 0) -> dict[str, list[int]]:
    """Samples of each source in the order in which they come, by their index within the source."""
    indices = dataset.order(seed)(positions)
    ends = [*dataset.begins.values(), len(dataset)][1:]
    return {
        name: (indices[(indices >= begin) & (indices < end)] - begin).tolist()
        for (name, begin), end in zip(dataset.begins.items(), ends, strict=True)
    }


@given(lengths=LENGTHS, weights=POSITIVE, seed=st.integers())
@settings(max_examples=60)
def test_each_epoch_of_a_source_holds_each_of_its_samples_once(
    lengths: list[int], weights: list[int], seed: int
) -> None:
    sizes = dict(zip(NAMES, lengths, strict=False))
    dataset = mixed(sizes, (0, dict(zip(sizes, weights, strict=False))))
    found = drawn(dataset, np.arange(600), seed)
    for name, length in sizes.items():
        samples = found[name]
        for start in range(0, len(samples) - length + 1, length):
            assert sorted(samples[start : start + length]) == list(range(length))


@given(
    weights=st.lists(POSITIVE, min_size=3, max_size=3),
    starts=st.tuples(st.integers(1, 50), st.integers(51, 10**12)),
    positions=st.lists(st.integers(0, 2 * 10**12), max_size=12),
)
def test_a_position_does_not_depend_on_its_neighbours(
    weights: list[list[int]], starts: tuple[int, int], positions: list[int]
) -> None:
    phases = [(start, dict(zip(NAMES, each, strict=True))) for start, each in zip((0, *starts), weights, strict=True)]
    order = mixed(dict(zip(NAMES, (3, 50, 700, 10**9), strict=True)), *phases).order(seed=4)
    assert order(positions).tolist() == [int(order([position])[0]) for position in positions]


@given(
    weights=POSITIVE,
    later=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    start=st.integers(1, 300),
)
@settings(max_examples=40)
def test_a_phase_changes_shares_from_its_position_on_and_orders_never(
    weights: list[int], later: list[int], start: int
) -> None:
    sizes = dict(zip(NAMES, (7, 20, 33, 90), strict=True))
    first, second = (dict(zip(NAMES, each, strict=True)) for each in (weights, later))
    steady, changed = mixed(sizes, (0, first)), mixed(sizes, (0, first), (start, second))
    positions = np.arange(400)
    assert steady.order(1)(positions[:start]).tolist() == changed.order(1)(positions[:start]).tolist()
    one, other = (drawn(dataset, positions, 1) for dataset in (steady, changed))
    for name in NAMES:
        shared = min(len(one[name]), len(other[name]))
        assert one[name][:shared] == other[name][:shared]
    counts = Schedule({0: first, start: second}).counts(400)
    assert counts == {name: len(samples) for name, samples in other.items()}


def test_a_source_that_joins_later_disturbs_nobody() -> None:
    before = mixed({"b": 50, "c": 31}, (0, {"b": 2, "c": 1}))
    after = mixed({"b": 50, "c": 31, "a": 9}, (0, {"b": 2, "c": 1, "a": 0}), (120, {"b": 2, "c": 1, "a": 3}))
    positions = np.arange(400)
    assert before.order(5)(positions[:120]).tolist() == after.order(5)(positions[:120]).tolist()
    old, new = drawn(before, positions, 5), drawn(after, positions, 5)
    for name in ("b", "c"):
        assert new[name] == old[name][: len(new[name])]
    assert not drawn(after, positions[:120], 5)["a"]
    assert sorted(new["a"][:9]) == list(range(9))


def test_the_order_in_which_sources_are_named_means_nothing() -> None:
    weights = {"a": 2, "b": 2, "c": 1}
    one, other = mixed({"a": 5, "b": 6, "c": 7}, (0, weights)), mixed({"c": 7, "b": 6, "a": 5}, (0, weights))
    assert drawn(one, np.arange(50)) == drawn(other, np.arange(50))
    assert (one.order(0)(np.arange(50)) < 5).tolist() == (other.order(0)(np.arange(50)) >= 13).tolist()


def test_sources_of_one_length_have_orders_of_their_own() -> None:
    dataset = mixed({"a": 500, "b": 500}, (0, {"a": 1, "b": 1}))
    found = drawn(dataset, np.arange(1000))
    assert (np.array(found["a"]) == np.array(found["b"])).mean() < 0.02
    assert drawn(dataset, np.arange(1000), seed=1)["a"] != found["a"]


@given(
    ranks=st.integers(1, 4),
    micro_batch=st.integers(1, 5),
    batch=st.integers(1, 12),
    killed=st.integers(0, 6),
)
@settings(max_examples=60)
def test_ranks_micro_batches_and_kills_change_nothing(ranks: int, micro_batch: int, batch: int, killed: int) -> None:
    steps = 7
    sources = {"a": Lengths(11), "b": Lengths(40, base=1000)}
    phases = {0: {"a": 3, "b": 1}, 20: {"a": 1, "b": 2}}
    dataset = Mixed(sources, Schedule(phases))
    order = dataset.order(3)
    seen: list[int] = []
    for begin, end in ((0, killed), (killed, steps)):
        loaders = [
            Loader(
                dataset,
                order,
                batch=batch,
                part=(rank * batch // ranks, (rank + 1) * batch // ranks),
                micro_batch=micro_batch,
                position=begin * batch,
                steps=end - begin,
            )
            for rank in range(ranks)
        ]
        for step in zip(*loaders, strict=True):
            seen += [value for part in step for each in part for value in each["inputs"].tolist()]
    asked = order(np.arange(steps * batch))
    assert seen == [int(read(dataset, [index])["inputs"][0]) for index in asked]


def test_it_travels_to_processes_that_read() -> None:
    dataset = Mixed({"a": Lengths(11), "b": Lengths(40, base=1000)}, Schedule({0: {"a": 3, "b": 1}}))
    order = dataset.order(3)
    there, their_order = pickle.loads(pickled((dataset, order)))  # noqa: S301
    indices = their_order(np.arange(90))
    assert indices.tolist() == order(np.arange(90)).tolist()
    assert torch.equal(read(there, indices)["inputs"], read(dataset, indices)["inputs"])


def test_a_mixture_may_hold_mixtures() -> None:
    inner = mixed({"x": 4, "y": 6}, (0, {"x": 1, "y": 1}))
    outer = Mixed({"a": Lengths(5), "inner": inner}, Schedule({0: {"a": 1, "inner": 3}}))
    indices = outer.order(0)(np.arange(160)) - 5
    inside = indices[indices >= 0]
    assert len(inside) == 120
    assert (inside < 4).sum() == 60
    assert sorted(inside[inside < 4][:4]) == [0, 1, 2, 3]


class Holed(Lengths):
    """An order with a hole at every third position."""

    def order(self, seed: int) -> object:
        return lambda positions: np.where(positions % 3 == 2, -1, positions % self.length)


def test_holes_of_a_source_stay_holes() -> None:
    dataset = Mixed({"a": Lengths(5), "b": Holed(6)}, Schedule({0: {"a": 1, "b": 1}}))
    indices = dataset.order(0)(np.arange(12)).tolist()
    assert indices.count(-1) == 2
    assert [index - 5 for index in indices if index >= 5] == [0, 1, 3, 4]


def test_positions_before_the_first_are_refused() -> None:
    order = mixed({"a": 5}, (0, {"a": 1})).order(0)
    assert order([]).shape == (0,)
    assert order(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    with pytest.raises(ModelwrightError, match="no position -1"):
        order([0, -1])


def test_it_never_changes() -> None:
    """Frozen: a run that resumes under another version must see the same samples."""
    dataset = mixed({"code": 100, "prose": 30, "maths": 8}, (0, {"code": 5, "prose": 3, "maths": 2}))
    assert dataset.order(7)(np.arange(12)).tolist() == GOLDEN


def test_ten_sources_of_a_trillion_tokens_open_at_once() -> None:
    """The state of a mixture is a position; its configuration is names, lengths and weights."""
    context = 2048
    lengths = {f"source-{number}": 10**12 * (number + 1) // (55 * context) for number in range(10)}
    assert sum(lengths.values()) * context > 10**12 - 10 * context
    weights = {name: 1 + number % 4 for number, name in enumerate(lengths)}
    tracemalloc.start()
    started = time.perf_counter()
    dataset = mixed(lengths, (0, weights), (10**8, dict.fromkeys(lengths, 1)))
    order = dataset.order(0)
    seconds = time.perf_counter() - started
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert held < 64 * 1024
    state = json.dumps({"position": 10**9, "seed": 0, "lengths": lengths, "weights": weights})
    assert len(state) <= 1024
    indices = order(np.arange(4 * 10**8, 4 * 10**8 + 64))
    assert indices.min() >= 0 and indices.max() < len(dataset)


GOLDEN = [120, 35, 103, 44, 137, 75, 129, 10, 132, 79, 100, 33]
