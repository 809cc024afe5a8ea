from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import tabular

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.tables.hugging_face import HuggingFace
from modelwright.data.tables.records import records

NAMES = ["virginica", "setosa", "versicolor"]  # not the alphabet's order


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iris, saved by the ``datasets`` package itself: whole in ``whole``, in two splits in ``split``."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("saved")
    whole = datasets.Dataset.from_list(tabular.iris())
    labels = datasets.ClassLabel(names=NAMES)
    whole = whole.cast_column("target", labels)
    whole.save_to_disk(str(folder / "whole"), num_shards=3)
    whole.shuffle(seed=0).train_test_split(0.2, seed=0).save_to_disk(str(folder / "split"))
    return folder


def _open(folder: Path, cache: Path, **fields: Any) -> Any:
    data = HuggingFace(folder=str(folder), target="target", standardise=False, **fields)
    return data.open(data.prepare(cache))


def test_rows_are_those_that_datasets_reads(saved: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    reference = datasets.load_from_disk(str(saved / "whole")).with_format("numpy")
    splits = _open(saved / "whole", tmp_path, held_out=0.0)
    batch = read(splits.train, np.arange(150))
    features = [name for name in reference.column_names if name != "target"]
    expected = np.stack([reference[name][:] for name in features], axis=1).astype(np.float32)
    assert np.array_equal(batch["inputs"].numpy(), expected)
    assert np.array_equal(batch["targets"].numpy(), reference["target"][:])
    assert splits.encoder.target.classes == tuple(NAMES)


def test_splits_are_kept(saved: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    reference = datasets.load_from_disk(str(saved / "split"))
    splits = _open(saved / "split", tmp_path, held_out_split="test")
    for part, name in ((splits.train, "train"), (splits.held_out, "test")):
        batch = read(part, np.arange(len(part)))
        assert batch["targets"].tolist() == reference[name]["target"][:]
    assert len(splits.train) == 120
    assert len(_open(saved / "split", tmp_path, split="test", held_out=0.0).train) == 30


def test_the_file_we_make_for_other_tests_reads_alike(tmp_path: Path) -> None:
    rows = tabular.iris()[:10]
    folder = tabular.write_arrow_folder(tmp_path / "made", rows, shards=1)
    assert list(records(next(folder.glob("*.arrow")))) == rows


def test_damage_is_named(saved: Path, tmp_path: Path) -> None:
    folder = tabular.write_arrow_folder(tmp_path / "made", tabular.iris())
    file = sorted(folder.glob("*.arrow"))[1]
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no arrow"):
        file.write_bytes(damaged)
        with pytest.raises(ModelwrightError, match="cannot be read: after row") as caught:
            _open(folder, tmp_path / "cache")
        assert caught.value.where == str(file)
    file.unlink()
    with pytest.raises(ModelwrightError, match="it is missing") as caught:
        _open(folder, tmp_path / "cache")
    assert caught.value.where == str(file)


def test_labels_without_a_name_are_refused_or_missing(tmp_path: Path) -> None:
    for label, what in ((7, "class 7 has no name"), (-1, "no target: 'target' is missing")):
        rows = [{"a": 1.0, "target": 0}, {"a": 2.0, "target": label}]
        folder = tabular.write_arrow_folder(tmp_path / str(label), rows, shards=1)
        info = {"features": {"target": {"names": ["no", "yes"], "_type": "ClassLabel"}}}
        (folder / "dataset_info.json").write_text(json.dumps(info), "utf-8")
        with pytest.raises(ModelwrightError, match=what) as caught:
            _open(folder, tmp_path / "cache", held_out=0.0)
        assert caught.value.where.endswith("00001.arrow:2")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"split": "tran"}, "there is no split 'tran'"),
        ({"held_out_split": "tst"}, "there is no split 'tst'"),
        ({"held_out_split": "train"}, "a split is to be learnt from and judged by"),
        ({"held_out_split": "test", "held_out": 0.1}, "given twice"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], what: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match=what):
        _open(saved / "split", tmp_path, **fields)


def test_other_folders_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="was not written by datasets' save_to_disk"):
        _open(tmp_path, tmp_path)
    with pytest.raises(ModelwrightError, match="holds a single data set"):
        _open(saved / "whole", tmp_path, split="test")
