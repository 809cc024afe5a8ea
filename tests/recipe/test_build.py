from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.recipe.test_schema import TEXT
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.data import Splits
from modelwright.recipe import load
from modelwright.recipe.build import build_model, filled_model, open_data

HERE = "tests.recipe.test_build"


class Net(nn.Module):
    def __init__(self, vocabulary: int, width: int = 4) -> None:
        super().__init__()
        if width < 0:
            raise ValueError("negative width")
        self.layer = nn.Linear(vocabulary, width)


def no_module() -> int:
    return 3


class Numbers:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(float(index))


def pair() -> tuple[Numbers, Numbers]:
    return Numbers(), Numbers()


def splits() -> Splits:
    return Splits(train=Numbers(), facts={"features": 3})


@dataclass(frozen=True, kw_only=True)
class Broken:
    size: int = 1

    def build(self) -> nn.Module:
        raise RuntimeError("no luck")


def loaded(**changes: str):  # type: ignore[no-untyped-def]
    return load(TEXT, [f"{key}={value}" for key, value in changes.items()])


def test_open_fields_are_filled_from_the_data() -> None:
    recipe = loaded()
    model = filled_model(recipe, {"vocabulary": 50, "classes": 3})
    assert model.vocabulary == 50
    assert model.layers == 2
    assert isinstance(build_model(model), nn.Module)
    assert recipe.recipe.model.vocabulary is None


def test_a_given_number_is_kept_and_one_too_small_is_refused() -> None:
    assert filled_model(loaded(model="{use: gpt, vocabulary: 64}"), {"vocabulary": 50}).vocabulary == 64
    with pytest.raises(ModelwrightError, match="vocabulary is 10, but the data has 50") as caught:
        filled_model(loaded(model="{use: gpt, vocabulary: 10}"), {"vocabulary": 50})
    assert caught.value.where == "command line (model={use: gpt, vocabulary: 10})"


def test_a_model_of_the_users_own_is_filled_and_built() -> None:
    recipe = loaded(model=f"{{use: '{HERE}:Net', width: 2}}")
    module = build_model(filled_model(recipe, {"vocabulary": 5, "features": 3}))
    assert module.layer.weight.shape == (2, 5)  # type: ignore[union-attr]
    with pytest.raises(ModelwrightError, match="needs 'vocabulary'"):
        filled_model(recipe, {"features": 3})


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (f"{{use: '{HERE}:Net', vocabulary: 3, width: -1}}", f"'{HERE}:Net' failed .* ValueError: negative width"),
        (f"{HERE}:no_module", "gave an object of type int"),
        (f"{HERE}:Broken", f"'{HERE}:Broken' failed .* RuntimeError: no luck"),
    ],
)
def test_models_that_fail_name_the_class_and_the_place(model: str, what: str) -> None:
    recipe = loaded(model=model)
    with pytest.raises(ModelwrightError, match=what) as caught:
        build_model(filled_model(recipe, {}), recipe.where("model"))
    assert caught.value.where == f"command line (model={model})"
    assert caught.value.remedy


@pytest.mark.parametrize(("use", "held_out"), [("Numbers", False), ("pair", True), ("splits", False)])
def test_data_of_the_users_own(use: str, held_out: bool, tmp_path: Path) -> None:
    _, found = open_data(loaded(data=f"{HERE}:{use}"), tmp_path)
    assert isinstance(found, Splits)
    assert len(found.train) == 3
    assert (found.held_out is not None) == held_out


def test_data_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="without __len__") as caught:
        open_data(loaded(data=f"{HERE}:no_module"), tmp_path)
    assert caught.value.where


def test_a_listed_data_technique(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 3), dtype=np.float32))
    np.save(tmp_path / "y.npy", np.zeros(8, dtype=np.int64))
    files = f"inputs: {tmp_path}/x.npy, targets: {tmp_path}/y.npy"
    folder, found = open_data(loaded(data=f"{{use: npy, {files}}}"), tmp_path / "cache")
    assert folder.is_dir()
    assert found.facts["features"] == 3
    with pytest.raises(ModelwrightError) as caught:
        open_data(loaded(data=f"{{use: npy, {files.replace('x.npy', 'z.npy')}}}"), tmp_path / "cache")
    assert "z.npy" in str(caught.value)


def test_a_model_of_sounds_takes_the_rate_of_the_data() -> None:
    """Else 8000 samples a second would be read as 16000, and each frequency as twice what it is."""
    assert filled_model(loaded(model="speech"), {"sample_rate": 8000, "classes": 3}).sample_rate == 8000
