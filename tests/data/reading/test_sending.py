from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data.memory import InMemory
from modelwright.data.reading.sending import Gone, pickled, receive_batch, send, send_batch


def _sent(value: object) -> tuple[Any, int]:
    sent = pickled(value)
    return pickle.loads(sent), len(sent)  # noqa: S301


@pytest.mark.parametrize(
    "part", [slice(None), slice(3, None), slice(1000, 90_000)], ids=["all", "from the third", "a part"]
)
def test_mapped_files_go_as_their_places(tmp_path: Path, part: slice) -> None:
    rows = np.arange(400_000, dtype=np.uint16).reshape(100_000, 4)
    rows.tofile(tmp_path / "rows.bin")
    np.save(tmp_path / "rows.npy", rows)
    raw = np.memmap(tmp_path / "rows.bin", dtype=np.uint16, mode="r", offset=16, shape=(99_998, 4))
    saved = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for mapped in (raw, saved, np.asarray(saved)):
        dataset, size = _sent(InMemory({"inputs": mapped[part]}))
        assert np.array_equal(dataset.arrays["inputs"], mapped[part])
        assert size < 2000


def test_what_is_no_plain_part_of_a_file_goes_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(1000).reshape(10, 100))
    private = np.load(tmp_path / "rows.npy", mmap_mode="c")
    private[0] = 7
    for array in (private, np.load(tmp_path / "rows.npy", mmap_mode="r")[:, ::2], np.arange(3), np.array([])):
        assert np.array_equal(_sent(array)[0], array)


def test_a_batch_that_breaks_off_is_noticed() -> None:
    sink = io.BytesIO()
    send_batch(sink, np.arange(3), {"inputs": torch.rand(3, 100)})
    whole = sink.getvalue()
    indices, batch = receive_batch(io.BytesIO(whole))
    assert indices.tolist() == [0, 1, 2] and batch["inputs"].shape == (3, 100)
    for length in (0, 10, 60, len(whole) - 1):
        with pytest.raises(Gone):
            receive_batch(io.BytesIO(whole[:length]))


def test_errors_arrive() -> None:
    sink = io.BytesIO()
    send(sink, {"error": ModelwrightError("bad", where="here", remedy="mend it").to_json()})
    with pytest.raises(ModelwrightError, match="bad") as caught:
        receive_batch(io.BytesIO(sink.getvalue()))
    assert (caught.value.where, caught.value.remedy) == ("here", "mend it")
