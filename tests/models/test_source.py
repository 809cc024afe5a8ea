from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.models.source import Source, load_weights, materialise, read_weights, save_weights

LINEAR = "torch.nn:Linear"


def gpt(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPT(vocabulary=17, layers=1, width=8, heads=2).build()


def test_builds_from_import_path_arguments_and_weights(tmp_path: Path) -> None:
    original = nn.Linear(3, 2)
    save_weights(original, tmp_path / "weights.safetensors")
    source = Source(
        factory=LINEAR,
        arguments={"in_features": 3, "out_features": 2},
        weights=tmp_path / "weights.safetensors",
    )
    built = source.build()
    assert isinstance(built, nn.Linear)
    assert torch.equal(built.weight, original.weight)
    assert torch.equal(built.bias, original.bias)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("torch.nn:Linaer", {}, "no 'Linaer'"),
        ("no_such_package:thing", {}, "no module"),
        ("builtins:dict", {}, "returned a dict, not a torch.nn.Module"),
        (LINEAR, {"in_features": 3}, "do not fit the factory.*out_features"),
        (LINEAR, {"in_features": 3, "out_features": -1}, "the factory failed: RuntimeError"),
    ],
)
def test_what_cannot_be_built_is_explained(factory: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        Source(factory=factory, arguments=arguments).build()


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    original, other = gpt(), gpt(seed=1)
    save_weights(original, path)
    with safe_open(path, framework="pt") as file:
        stored = list(file.keys())
    assert "embedding.weight" in stored
    assert "head.weight" not in stored
    assert torch.equal(read_weights(path)["head.weight"], original.state_dict()["head.weight"])
    load_weights(other, path)
    assert other.head.weight is other.embedding.weight  # type: ignore[union-attr]
    for name, tensor in original.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_a_foreign_file_may_name_a_tied_weight_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = {name: tensor for name, tensor in gpt().state_dict().items() if name != "head.weight"}
    save_file(weights, path, metadata={"format": "pt"})
    load_weights(gpt(seed=1), path)


def test_views_of_one_memory_that_are_no_twins_are_saved(tmp_path: Path) -> None:
    model = nn.Module()
    whole = torch.arange(6.0)
    model.register_buffer("first", whole[:3])
    model.register_buffer("second", whole[3:])
    save_weights(model, tmp_path / "weights.safetensors")
    assert torch.equal(read_weights(tmp_path / "weights.safetensors")["second"], whole[3:])


def test_mismatches_are_listed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False)), path)
    other = nn.Sequential(nn.Linear(4, 2), nn.Identity(), nn.Linear(2, 2, bias=False))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ModelwrightError) as raised:
        load_weights(other, path)
    message = str(raised.value)
    assert "missing in the file: 2.weight" in message
    assert "unknown to the model: 1.weight" in message
    assert "0.weight (file [2, 3], model [2, 4])" in message
    assert str(path) in message
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_bad_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ModelwrightError, match="does not exist"):
        load_weights(nn.Linear(1, 1), path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelwrightError, match="not safetensors"):
        load_weights(nn.Linear(1, 1), path)
    save_file({"weight": torch.zeros(1, 1)}, path, metadata={"format": "99"})
    with pytest.raises(ModelwrightError, match="newer"):
        load_weights(nn.Linear(1, 1), path)


def test_saving_speaks_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    with pytest.raises(ModelwrightError, match="meta"):
        save_weights(empty, path)
    assert path.read_bytes() == before
    with pytest.raises(ModelwrightError):
        save_weights(nn.Linear(2, 2), tmp_path / "missing" / "weights.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_model_from_the_meta_device_keeps_its_ties(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    original = gpt()
    save_weights(original, path)
    with torch.device("meta"):
        model = gpt()
    load_weights(materialise(model), path)
    assert model.head.weight is model.embedding.weight  # type: ignore[union-attr]
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(tokens), original(tokens))


def test_buffers_that_no_file_can_fill_are_refused() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(ModelwrightError, match="table"):
        materialise(model)
