from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data import Splits
from modelwright.data.batches import read
from modelwright.data.memory import InMemory, facts_of, halves, splits_of


def test_rows_come_from_tensors_arrays_and_lists() -> None:
    dataset = InMemory({"a": torch.arange(3), "b": np.arange(6).reshape(3, 2), "c": [7, 8, 9]})
    batch = dataset.__getitems__([2, 0])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "a": [2, 0],
        "b": [[4, 5], [0, 1]],
        "c": [9, 7],
    }


def test_batches_are_copies() -> None:
    source = np.zeros(2)
    InMemory({"a": source}).__getitems__([0, 1])["a"].add_(1)
    assert source.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({}, "no arrays"),
        ({"a": np.ones(2), "b": np.ones(3)}, "a has 2, b has 3"),
        ({"a": np.float32(1)}, "a single number"),
    ],
)
def test_impossible_arrays_are_refused(arrays: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelwrightError, match=what):
        InMemory(arrays)


@given(length=st.integers(2, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_halves_share_nothing_and_lose_nothing(length: int, fraction: float, seed: int) -> None:
    train, held_out = halves(InMemory({"inputs": torch.arange(length)}), fraction, seed)
    assert held_out is not None
    parts = [read(part, np.arange(len(part)))["inputs"].tolist() for part in (train, held_out)]
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == list(range(length))
    assert abs(len(held_out) - length * fraction) <= 1


def test_nothing_is_held_out_of_one_sample() -> None:
    with pytest.raises(ModelwrightError, match="nothing can be held out of 1 samples"):
        halves(InMemory({"inputs": torch.ones(1)}), 0.5, 0)


@pytest.mark.parametrize(
    ("inputs", "targets", "facts"),
    [
        (torch.ones(4, 3, 2), torch.tensor([0, 2, 1, -100]), {"features": 6, "classes": 3}),
        (np.ones((4, 3)), np.ones(4), {"features": 3, "classes": 1}),
        (np.ones((4, 3)), np.ones((4, 5)), {"features": 3, "classes": 5}),
        (np.ones((4, 3), dtype=np.int64), np.ones((4, 3), dtype=np.int64), {}),
        (torch.ones(4), None, {"features": 1}),
    ],
)
def test_facts(inputs: Any, targets: Any, facts: dict[str, int]) -> None:
    assert facts_of(inputs, targets) == facts


def test_negative_classes_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="a target is -1"):
        facts_of(np.ones((2, 1)), np.array([0, -1]))


def test_tensors_become_splits() -> None:
    splits = splits_of((torch.ones(4, 3), torch.tensor([0, 1, 2, 0])), held_out=(torch.ones(1, 3), torch.ones(1)))
    assert splits.facts == {"features": 3, "classes": 3}
    assert (len(splits.train), splits.held_out is not None and len(splits.held_out)) == (4, 1)


def test_data_sets_and_splits_pass_through() -> None:
    dataset = torch.utils.data.TensorDataset(torch.ones(2))
    splits = splits_of(dataset)
    assert splits.train is dataset
    assert splits_of(splits) is splits
    assert splits_of(splits, held_out=dataset) == Splits(dataset, dataset)


@pytest.mark.parametrize("data", [None, 3, iter([1]), object()])
def test_what_is_no_data_set_is_refused(data: Any) -> None:
    with pytest.raises(ModelwrightError, match="is no data set"):
        splits_of(data)


def test_empty_data_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="empty"):
        splits_of(torch.ones(0, 3))
