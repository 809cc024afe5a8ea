from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.models.starts.weight_files import read_file, read_folder, read_torch


class Trap:
    """Pickled, it runs a command when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def weights() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "b.weight": torch.zeros(1)}


def shard(folder: Path, **changes: str) -> Path:
    found = weights()
    save_file({"a.weight": found["a.weight"], "a.bias": found["a.bias"]}, folder / "model-1.safetensors")
    save_file({"b.weight": found["b.weight"]}, folder / "model-2.safetensors")
    places = {name: f"model-{1 if name.startswith('a') else 2}.safetensors" for name in found} | changes
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == weights().keys() and all(torch.equal(found[name], each) for name, each in weights().items())


def test_all_forms_give_the_same(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "one.safetensors")
    torch.save(weights(), tmp_path / "state.pt")
    torch.save({"state_dict": weights(), "epoch": 3}, tmp_path / "nested.pt")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    index = shard(sharded)
    for path in (tmp_path / "one.safetensors", tmp_path / "state.pt", tmp_path / "nested.pt", index, sharded):
        assert same(read_file(path)), path


def test_a_folder_prefers_safetensors(tmp_path: Path) -> None:
    torch.save({name: tensor + 1 for name, tensor in weights().items()}, tmp_path / "pytorch_model.bin")
    assert not same(read_folder(tmp_path))
    save_file(weights(), tmp_path / "model.safetensors")
    assert same(read_folder(tmp_path))


def test_broken_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match=r"outside of its folder: \.\./x"):
        read_file(shard(tmp_path, **{"b.weight": "../x"}))
    with pytest.raises(ModelwrightError, match="'c' the first"):
        read_file(shard(tmp_path, c="model-1.safetensors"))
    with pytest.raises(ModelwrightError, match="does not exist") as raised:
        read_file(shard(tmp_path, c="model-3.safetensors"))
    assert raised.value.where.endswith("model-3.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelwrightError, match="weight_map"):
        read_folder(tmp_path)


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "bad.ckpt"
    torch.save({"state_dict": weights(), "trap": Trap(mark)}, path)
    with pytest.raises(ModelwrightError, match="could run code") as raised:
        read_torch(path)
    assert "mkdir" in raised.value.what
    assert raised.value.where == str(path)
    assert "nothing of it was run" in raised.value.remedy
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert mark.exists()


def test_other_files_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.pt"
    text.write_text("no weights at all")
    with pytest.raises(ModelwrightError, match=r"no file that torch\.save wrote"):
        read_file(text)
    text.write_bytes(b"")
    with pytest.raises(ModelwrightError, match=r"no file that torch\.save wrote"):
        read_file(text)
    torch.save({"epoch": 3, "seed": 1}, text)
    with pytest.raises(ModelwrightError, match="holds no weights by name, but: epoch, seed"):
        read_file(text)
    with pytest.raises(ModelwrightError, match="does not exist"):
        read_file(tmp_path / "none.pt")
    with pytest.raises(ModelwrightError, match="holds no weights"):
        read_folder(tmp_path)
    with pytest.raises(ModelwrightError, match="folder does not exist"):
        read_folder(tmp_path / "none")
