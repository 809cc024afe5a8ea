from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.sklearn_sets import SklearnSet


@pytest.mark.parametrize(
    ("name", "samples", "features", "classes"),
    [
        ("digits", 1797, 64, 10),
        ("breast-cancer", 569, 30, 2),
        ("wine", 178, 13, 3),
        ("iris", 150, 4, 3),
        ("diabetes", 442, 10, 1),
    ],
)
def test_sets(name: Any, samples: int, features: int, classes: int, tmp_path: Path) -> None:
    data = SklearnSet(name=name)
    splits = data.open(data.prepare(tmp_path))
    assert splits.held_out is not None
    assert splits.facts == {"features": features, "classes": classes}
    assert len(splits.train) + len(splits.held_out) == samples
    assert len(splits.held_out) == round(samples * 0.2)
    batch = read(splits.train, np.arange(len(splits.train)))
    spread = batch["inputs"].std(dim=0, correction=0)
    assert batch["inputs"].dtype == torch.float32
    assert batch["inputs"].mean(dim=0).abs().max() < 1e-4
    assert ((spread - 1).abs() < 1e-3).logical_or(spread == 0).all()
    if name == "diabetes":
        assert (batch["targets"].dtype, batch["targets"].shape[1]) == (torch.float32, 1)
    else:
        assert batch["targets"].dtype == torch.int64


def test_held_out_numbers_do_not_enter_the_statistics(tmp_path: Path) -> None:
    """Against scikit-learn's own arrays: undoing the training part's scaling gives back every row."""
    data = SklearnSet(name="wine", held_out=0.5, seed=3)
    splits = data.open(data.prepare(tmp_path))
    assert splits.held_out is not None
    raw, _ = datasets.load_wine(return_X_y=True)
    train = read(splits.train, np.arange(len(splits.train)))["inputs"].numpy()
    held_out = read(splits.held_out, np.arange(len(splits.held_out)))["inputs"].numpy()
    whole = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    assert abs(held_out.mean(axis=0)).max() > 1e-3
    both = np.concatenate([train, held_out])
    for column in range(raw.shape[1]):  # one line through all rows: one scaling for both parts
        slope, offset = np.polyfit(np.sort(both[:, column]), np.sort(whole[:, column]), 1)
        assert np.allclose(np.sort(both[:, column]) * slope + offset, np.sort(whole[:, column]), atol=1e-4)


def test_digits_are_images_too(tmp_path: Path) -> None:
    """Against scikit-learn's own images; both kinds hold out the same samples."""
    parts = []
    for images in (True, False):
        data = SklearnSet(images=images)
        splits = data.open(data.prepare(tmp_path))
        assert splits.held_out is not None
        parts.append([read(part, np.arange(len(part))) for part in (splits.train, splits.held_out)])
    assert splits.facts == {"features": 64, "classes": 10}
    seen = torch.cat([part["inputs"] for part in parts[0]])
    assert seen.dtype == torch.uint8 and seen.shape == (1797, 1, 8, 8) and seen.max() == 255
    theirs = datasets.load_digits().images * 255 / 16
    assert np.allclose(np.sort(seen.numpy().reshape(1797, -1).sum(axis=1)), np.sort(theirs.sum(axis=(1, 2))), atol=32)
    for one, other in zip(*parts, strict=True):
        assert torch.equal(one["targets"], other["targets"])


@pytest.mark.parametrize(
    "fields", [{"name": "wine", "images": True}, {"name": "mnist"}, {"held_out": 0.0}, {"held_out": 1.0}]
)
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelwrightError):
        SklearnSet(**fields)
