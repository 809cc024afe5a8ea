from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.npy import NpyArrays


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(40, dtype=np.float64).reshape(20, 2))
    np.save(tmp_path / "y.npy", (np.arange(20) % 3).astype(np.int32))
    np.save(tmp_path / "x5.npy", np.zeros((5, 2), dtype=np.float32))
    np.save(tmp_path / "y5.npy", np.full(5, 6))
    return tmp_path


def _data(folder: Path, **fields: Any) -> NpyArrays:
    names: dict[str, Any] = {"inputs": "x.npy", "targets": "y.npy"} | fields
    settings: dict[str, Any] = {
        name: str(folder / value) if isinstance(value, str) else value for name, value in names.items()
    }
    return NpyArrays(**settings)


def test_rows_are_split_at_random_without_overlap(arrays: Path) -> None:
    data = _data(arrays, held_out=0.25)
    splits = data.open(data.prepare(arrays / "cache"))
    assert splits.held_out is not None
    parts = [read(part, np.arange(len(part))) for part in (splits.train, splits.held_out)]
    assert [len(part["inputs"]) for part in parts] == [15, 5]
    rows = torch.cat([part["inputs"] for part in parts])[:, 0].tolist()
    assert sorted(rows) == list(range(0, 40, 2))
    for part in parts:
        assert (part["targets"] == (part["inputs"][:, 0] / 2).long() % 3).all()


def test_types_are_what_models_take(arrays: Path) -> None:
    data = _data(arrays)
    splits = data.open(data.prepare(arrays / "cache"))
    batch = read(splits.train, [0])
    assert (batch["inputs"].dtype, batch["targets"].dtype) == (torch.float32, torch.int64)
    assert splits.facts == {"features": 2, "classes": 3}


def test_held_out_files_are_used(arrays: Path) -> None:
    data = _data(arrays, held_out_inputs="x5.npy", held_out_targets="y5.npy")
    splits = data.open(data.prepare(arrays / "cache"))
    assert splits.held_out is not None
    assert (len(splits.train), len(splits.held_out), splits.facts["classes"]) == (20, 5, 7)


def test_nothing_need_be_held_out(arrays: Path) -> None:
    data = _data(arrays, held_out=0.0)
    assert data.open(data.prepare(arrays / "cache")).held_out is None


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"targets": "gone.npy"}, "array of targets cannot be read: No such file"),
        ({"targets": "y5.npy"}, "20 inputs and 5 targets"),
        ({"inputs": "text.npy"}, "no .npy array of numbers"),
        ({"inputs": "objects.npy"}, "no .npy array of numbers"),
        ({"inputs": "words.npy"}, "no .npy array of numbers"),
    ],
)
def test_bad_files_are_named(fields: dict[str, str], what: str, arrays: Path) -> None:
    (arrays / "text.npy").write_text("no array", "utf-8")
    np.save(arrays / "objects.npy", np.array([{}] * 20, dtype=object), allow_pickle=True)
    np.save(arrays / "words.npy", np.array(["a"] * 20))
    with pytest.raises(ModelwrightError, match=what) as caught:
        _data(arrays, **fields).prepare(arrays / "cache")
    assert next(iter(fields.values())) in caught.value.where


def test_changed_files_are_noticed(arrays: Path) -> None:
    data = _data(arrays)
    folder = data.prepare(arrays / "cache")
    np.save(arrays / "x.npy", np.zeros((30, 2)))
    with pytest.raises(ModelwrightError, match="changed since"):
        data.open(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out_inputs": "x5.npy"},
        {"held_out_targets": "y5.npy"},
        {"held_out": 0.1, "held_out_inputs": "x5.npy", "held_out_targets": "y5.npy"},
        {"held_out": 1.0},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], arrays: Path) -> None:
    with pytest.raises(ModelwrightError):
        _data(arrays, **fields)
