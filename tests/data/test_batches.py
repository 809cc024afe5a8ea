from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read


class Items:
    """A user's data set: one sample at a time."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Whole(Items):
    def __getitems__(self, positions: Any) -> Any:
        return self.samples[0]


def test_dicts_are_stacked() -> None:
    dataset = Items({"image": np.zeros(3), "label": 1}, {"image": np.ones(3), "label": np.int64(2)})
    batch = read(dataset, [1, 0])
    assert batch["image"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch["label"].tolist() == [2, 1]
    assert batch["label"].dtype == torch.int64


def test_tuples_become_inputs_and_targets() -> None:
    batch = read(Items((torch.ones(2), 0.5), (torch.zeros(2), 1.5)), np.array([0, 1]))
    assert batch["inputs"].shape == (2, 2)
    assert batch["targets"].tolist() == [0.5, 1.5]
    assert batch["targets"].dtype == torch.float32


def test_bare_tensors_become_inputs() -> None:
    assert read(Items(torch.tensor(1), torch.tensor(2)), [0, 1])["inputs"].tolist() == [1, 2]


def test_torch_data_sets_are_read() -> None:
    dataset = torch.utils.data.TensorDataset(torch.arange(6).view(3, 2), torch.arange(3))
    batch = read(dataset, [2])
    assert batch["inputs"].tolist() == [[4, 5]]
    assert batch["targets"].tolist() == [2]


def test_torch_subsets_give_lists_of_samples() -> None:
    whole = torch.utils.data.TensorDataset(torch.arange(6).view(3, 2), torch.arange(3))
    batch = read(torch.utils.data.Subset(whole, [2, 0]), [0, 1])
    assert batch["targets"].tolist() == [2, 0]


def test_whole_batches_may_be_numpy() -> None:
    assert read(Whole({"inputs": np.arange(2)}), [0, 1])["inputs"].dtype == torch.int64


@pytest.mark.parametrize("sample", ["text", 3, None, {"inputs": "text"}, (1, 2, 3), {"inputs": None}])
def test_other_samples_are_refused_with_what_is_accepted(sample: Any) -> None:
    with pytest.raises(ModelwrightError) as caught:
        read(Items(sample), [0])
    assert "tuple (inputs, targets)" in caught.value.remedy


def test_failures_name_the_sample() -> None:
    with pytest.raises(ModelwrightError, match="IndexError") as caught:
        read(Items(torch.ones(1)), [0, 7])
    assert caught.value.where == "sample 7"


def test_failures_of_a_whole_read_name_the_samples() -> None:
    with pytest.raises(ModelwrightError, match="IndexError") as caught:
        read(Whole(), [5, 6, 7, 8, 9])
    assert caught.value.where == "samples 5, 6, 7, 8, ..."


def test_different_shapes_are_named() -> None:
    with pytest.raises(ModelwrightError, match=r"'inputs' differs in shape: \[2\] and \[3\]") as caught:
        read(Items(torch.ones(2), torch.ones(3)), [0, 1])
    assert caught.value.where == "samples 0 and 1"


def test_different_names_are_named() -> None:
    with pytest.raises(ModelwrightError, match="different names"):
        read(Items({"a": 1}, {"b": 1}), [0, 1])


def test_wrong_numbers_of_samples_are_named() -> None:
    with pytest.raises(ModelwrightError, match="asked for 3 samples and gave 'inputs' of shape"):
        read(Whole({"inputs": torch.ones(2, 4)}), [0, 1, 2])
