from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.mixture.examples import Lengths

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import alike, read
from modelwright.data.memory import InMemory
from modelwright.data.mixture.joined import Joined

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions


def arrays(length: int, base: int, **fields: Any) -> InMemory:
    rows = torch.arange(length * 3).reshape(length, 3) + base
    return InMemory({"inputs": rows, "targets": rows[:, 0].double(), **fields})


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    places=st.lists(st.floats(0, 1, exclude_max=True), max_size=12),
)
def test_rows_come_as_they_are_asked_for(lengths: list[int], places: list[float]) -> None:
    parts = {f"{number}": arrays(length, 1000 * number) for number, length in enumerate(lengths)}
    joined = Joined(parts)
    assert alike(joined)
    assert len(joined) == sum(lengths)
    indices = [int(place * len(joined)) for place in places]
    batch = read(joined, indices)
    whole = {name: torch.cat([read(part, range(len(part)))[name] for part in parts.values()]) for name in batch}
    assert batch.keys() == {"inputs", "targets"}
    for name, rows in whole.items():
        assert batch[name].dtype == rows.dtype
        assert torch.equal(batch[name], rows[indices])


def test_each_data_set_is_read_once() -> None:
    parts = {"a": Lengths(10), "b": Lengths(10, base=100), "c": Lengths(10, base=200)}
    joined = Joined(parts)
    for part in parts.values():
        part.reads.clear()
    assert read(joined, [25, 3, 11, 4, 29])["inputs"].tolist() == [205, 3, 101, 4, 209]
    assert [part.reads for part in parts.values()] == [[2], [1], [2]]


@pytest.mark.parametrize("index", [-1, 20])
def test_there_are_no_other_samples(index: int) -> None:
    with pytest.raises(ModelwrightError, match="is none of 20"):
        read(Joined({"a": Lengths(10), "b": Lengths(10)}), [3, index])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (arrays(4, 0, bytes=torch.zeros(4)), "'other' has the field 'bytes' and 'first' has not"),
        (InMemory({"inputs": torch.zeros(4, 3).long()}), "'first' has the field 'targets' and 'other' has not"),
        (
            InMemory({"inputs": torch.zeros(4, 5).long(), "targets": torch.zeros(4).double()}),
            r"'inputs' is int64 \[3\] in 'first' and int64 \[5\] in 'other'",
        ),
        (
            InMemory({"inputs": torch.zeros(4, 3).long(), "targets": torch.zeros(4).long()}),
            r"'targets' is float64 \[\] in 'first' and int64 \[\] in 'other'",
        ),
    ],
)
def test_samples_of_two_kinds_are_refused(other: InMemory, said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        Joined({"first": arrays(4, 0), "same": arrays(2, 0), "other": other})


class Images(Lengths):
    """Channels last, as decoders give them, whatever the number of samples."""

    decodes = True

    def __getitems__(self, positions: Positions) -> Batch:
        rows = torch.arange(12.0).reshape(1, 2, 2, 3) + torch.as_tensor(np.asarray(positions)).reshape(-1, 1, 1, 1)
        return {"inputs": rows.permute(0, 3, 1, 2)}


def test_tensors_lie_in_memory_as_those_of_one_source() -> None:
    joined = Joined({"a": Images(4), "b": Images(4)})
    one, both = read(joined, [1, 2])["inputs"], read(joined, [1, 6])["inputs"]
    assert both.stride() == one.stride() != both.contiguous().stride()
    assert torch.equal(one, both)
    assert joined.decodes and not Joined({"a": Lengths(1)}).decodes


class Growing(Lengths):
    """Its samples change in kind after the first."""

    def __getitems__(self, positions: Positions) -> Batch:
        wide = int(np.max(positions, initial=0)) + 1
        return {"inputs": torch.zeros(len(positions), wide).long()}


def test_samples_that_change_later_are_refused_too() -> None:
    joined = Joined({"a": Growing(5), "b": Growing(5)})
    with pytest.raises(ModelwrightError, match=r"'inputs' is int64 \[2\] in 'a' and int64 \[1\] in 'b'"):
        read(joined, [1, 5])


def test_what_cannot_stand_beside_others_is_refused() -> None:
    padded = Lengths(3)
    padded.alike = False
    with pytest.raises(ModelwrightError, match="'b' are padded to the longest"):
        Joined({"a": Lengths(3), "b": padded})
    with pytest.raises(ModelwrightError, match="'b' is empty"):
        Joined({"a": Lengths(3), "b": Lengths(0)})


class Damaged(Lengths):
    """Its even samples lie in a shard that is gone."""

    def __getitems__(self, positions: Positions) -> Batch:
        assert self.present(positions).all(), "a sample was read that is not there"
        return super().__getitems__(positions)

    def present(self, indices: Positions) -> np.ndarray[Any, Any]:
        return np.asarray(indices) % 2 == 1


def test_missing_samples_are_known() -> None:
    joined = Joined({"a": Lengths(3), "b": Damaged(4)})
    assert joined.present(np.array([0, 1, 3, 4, 5, 6, -1])).tolist() == [True, True, False, True, False, True, False]
