from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tests.data import tabular

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.manifest import verify
from modelwright.data.memory import splits_of
from modelwright.data.tables import build as table_build
from modelwright.data.tables.csv_files import Csv
from modelwright.data.tables.jsonl import Jsonl
from modelwright.data.tables.parquet import Parquet


def _csv(path: Path, **fields: Any) -> Csv:
    return Csv(files=(str(path),), **({"target": "target", "held_out": 0.2} | fields))


def _open(data: Any, cache: Path) -> Any:
    return data.open(data.prepare(cache))


def _all(part: Any) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in read(part, np.arange(len(part))).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    tabular.write_csv(made / "wine.csv", tabular.wine())
    tabular.write_csv(made / "diabetes.csv", tabular.diabetes())
    return made


def test_real_data_is_what_scikit_learn_makes_of_it(folder: Path, tmp_path: Path) -> None:
    """The same rows, standardised by scikit-learn with the training part's numbers alone."""
    raw = _open(_csv(folder / "wine.csv", standardise=False), tmp_path)
    scaled = _open(_csv(folder / "wine.csv"), tmp_path)
    scaler = StandardScaler().fit(_all(raw.train)["inputs"].astype(np.float64))
    for part in ("train", "held_out"):
        expected, found = _all(getattr(raw, part)), _all(getattr(scaled, part))
        np.testing.assert_allclose(found["inputs"], scaler.transform(expected["inputs"]), atol=2e-5)
        assert np.array_equal(found["targets"], expected["targets"])
    assert scaled.facts == {"features": 13, "classes": 3}


def test_the_parts_hold_every_row_once(folder: Path, tmp_path: Path) -> None:
    splits = _open(_csv(folder / "wine.csv", standardise=False), tmp_path)
    parts = [_all(splits.train), _all(splits.held_out)]
    found = np.concatenate([np.c_[part["inputs"], part["targets"]] for part in parts])
    rows = [[*list(row.values())[:-1], int(row["target"][-1])] for row in tabular.wine()]
    expected = np.array(rows, dtype=np.float32)
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    assert 0.1 < len(splits.held_out) / 178 < 0.3


def test_held_out_rows_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    """Held-out features may become anything: training inputs stay. The control: training rows may not."""
    rows = [row | {"color": color} for row, color in zip(tabular.wine(), "rgb" * 60, strict=False)]
    half = len(rows) // 2
    inputs = []
    for number, changed in enumerate(("none", "held_out", "train")):
        parts = {"train": rows[:half], "held_out": rows[half:]}
        if changed != "none":
            parts[changed] = [row | {"alcohol": 1e6, "color": "violet"} for row in parts[changed]]
        paths = {part: tabular.write_csv(tmp_path / f"{number}{part}.csv", given) for part, given in parts.items()}
        data = _csv(paths["train"], held_out=None, held_out_files=(str(paths["held_out"]),))
        inputs.append(_all(_open(data, tmp_path).train)["inputs"])
    assert np.array_equal(inputs[0], inputs[1])
    assert inputs[0].shape != inputs[2].shape


def test_quantities_are_standardised_and_come_back(folder: Path, tmp_path: Path) -> None:
    splits = _open(_csv(folder / "diabetes.csv"), tmp_path)
    train = _all(splits.train)["targets"]
    assert (train.shape[1], train.dtype, splits.facts["classes"]) == (1, np.float32, 1)
    assert abs(train.mean()) < 1e-6 and abs(train.std() - 1) < 1e-6
    back = splits.encoder.decode(torch.from_numpy(_all(splits.held_out)["targets"]))
    known = {row["target"] for row in tabular.diabetes()}
    assert all(min(abs(value - number) for number in known) < 1e-4 for value in back)
    raw = _open(_csv(folder / "diabetes.csv", standardise=False), tmp_path)
    np.testing.assert_allclose(back, _all(raw.held_out)["targets"][:, 0], rtol=1e-6)


def test_new_rows_become_what_the_prepared_ones_are(folder: Path, tmp_path: Path) -> None:
    splits = _open(_csv(folder / "wine.csv", held_out=0.0), tmp_path)
    rows = tabular.wine()
    batch = splits.encoder.encode(rows)
    assert np.array_equal(batch["inputs"].numpy(), _all(splits.train)["inputs"])
    assert batch["inputs"].dtype == torch.float32
    texts = [{name: str(value) for name, value in row.items() if name != "target"} for row in rows]
    assert torch.equal(splits.encoder.encode(texts)["inputs"], batch["inputs"])
    targets = torch.from_numpy(_all(splits.train)["targets"])
    assert splits.encoder.decode(torch.nn.functional.one_hot(targets).float()) == [row["target"] for row in rows]


def test_texts_become_one_hot_as_in_scikit_learn(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [{"a": str(random.choice(["x", "y", "ä b"])), "n": float(n), "target": float(n)} for n in range(60)]
    splits = _open(_csv(tabular.write_csv(tmp_path / "t.csv", rows), held_out=0.0), tmp_path)
    expected = OneHotEncoder(sparse_output=False).fit_transform([[row["a"]] for row in rows])
    assert np.array_equal(_all(splits.train)["inputs"][:, :3], expected)
    coded = _open(_csv(tmp_path / "t.csv", held_out=0.0, categories="codes"), tmp_path)
    assert np.array_equal(_all(coded.train)["inputs"][:, 0], expected.argmax(axis=1) + 1)
    named = _open(_csv(tmp_path / "t.csv", held_out=0.0, features=("n",), categorical=("n",)), tmp_path)
    assert _all(named.train)["inputs"].sum() == 60 == named.facts["features"]


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_the_size_of_chunks_changes_nothing(
    chunk: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _all(_open(_csv(folder / "wine.csv"), tmp_path / "whole").train)
    monkeypatch.setattr(table_build, "CHUNK", chunk)
    parts = _all(_open(_csv(folder / "wine.csv"), tmp_path / "parts").train)
    np.testing.assert_allclose(parts["inputs"], whole["inputs"], atol=1e-6)
    assert np.array_equal(parts["targets"], whole["targets"])


def test_every_kind_of_file_gives_the_same_arrays(folder: Path, tmp_path: Path) -> None:
    rows = tabular.diabetes()
    csv = _open(_csv(folder / "diabetes.csv"), tmp_path)
    jsonl = Jsonl(files=(str(tabular.write_jsonl(tmp_path / "d.jsonl", rows)),), target="target", held_out=0.2)
    parquet = Parquet(files=(str(tabular.write_parquet(tmp_path / "d.parquet", rows)),), target="target", held_out=0.2)
    for data in (jsonl, parquet):
        splits = _open(data, tmp_path)
        for part in ("train", "held_out"):
            one, other = _all(getattr(csv, part)), _all(getattr(splits, part))
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_several_files_and_gzip_and_separators(folder: Path, tmp_path: Path) -> None:
    rows = tabular.wine()
    tabular.write_csv(tmp_path / "1.csv", rows[:100], ";")
    tabular.write_csv(tmp_path / "2.csv.gz", rows[100:], ";")
    whole = _all(_open(_csv(folder / "wine.csv"), tmp_path).train)
    parts = _all(_open(_csv(tmp_path / "[12].csv*", separator=";"), tmp_path).train)
    assert np.array_equal(whole["inputs"], parts["inputs"])


def test_equal_rows_stay_together_and_new_rows_move_no_others(folder: Path, tmp_path: Path) -> None:
    rows = tabular.wine()
    tabular.write_csv(tmp_path / "t.csv", rows * 2)
    once = _all(_open(_csv(folder / "wine.csv", standardise=False), tmp_path).held_out)["inputs"]
    twice = _all(_open(_csv(tmp_path / "t.csv", standardise=False), tmp_path).held_out)["inputs"]
    assert np.array_equal(np.concatenate([once, once]), twice)
    tabular.write_csv(tmp_path / "t.csv", [rows[0] | {"ash": 99.5}, *rows])
    more = _all(_open(_csv(tmp_path / "t.csv", standardise=False), tmp_path).held_out)["inputs"]
    assert {tuple(row) for row in once} <= {tuple(row) for row in more}
    other = _all(_open(_csv(folder / "wine.csv", standardise=False, seed=1), tmp_path).held_out)["inputs"]
    assert other.shape != once.shape or not np.array_equal(other, once)


@pytest.mark.parametrize("share", [1e-9, 0.999999])
def test_each_part_gets_a_row(share: float, folder: Path, tmp_path: Path) -> None:
    splits = _open(_csv(folder / "wine.csv", held_out=share), tmp_path)
    assert min(len(splits.train), len(splits.held_out)) == 1


def test_nothing_can_be_held_out_of_equal_rows(tmp_path: Path) -> None:
    tabular.write_csv(tmp_path / "t.csv", [{"a": 1.5, "target": 2.5}] * 3)
    with pytest.raises(ModelwrightError, match="nothing can be held out") as caught:
        _csv(tmp_path / "t.csv").prepare(tmp_path)
    assert (caught.value.where, caught.value.remedy) == ("held_out", "held_out: 0")
    assert _open(_csv(tmp_path / "t.csv", held_out=0.0), tmp_path).held_out is None


def test_what_is_asked_for_and_what_files_hold_choose_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes((folder / "wine.csv").read_bytes())
    data = _csv(tmp_path / "t.csv")
    first = data.prepare(tmp_path / "cache")
    os.utime(tmp_path / "t.csv", (1, 1))
    assert data.prepare(tmp_path / "cache") == first, "a touched file was prepared again"
    (tmp_path / "moved.csv").write_bytes((folder / "wine.csv").read_bytes())
    assert _csv(tmp_path / "moved.csv").prepare(tmp_path / "cache") == first, "the same rows elsewhere"
    others = [replace(data, **change) for change in ({"seed": 1}, {"standardise": False}, {"missing": "mean"})]
    assert len({first, *(other.prepare(tmp_path / "cache") for other in others)}) == 4
    (tmp_path / "t.csv").write_bytes((folder / "wine.csv").read_bytes().replace(b"14.23", b"14.24"))
    assert data.prepare(tmp_path / "cache") != first


def test_what_was_prepared_needs_no_files_and_damage_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes((folder / "wine.csv").read_bytes())
    data = _csv(tmp_path / "t.csv")
    prepared = data.prepare(tmp_path / "cache")
    assert sorted(path.name for path in prepared.iterdir()) == [
        "held_out_inputs.npy", "held_out_targets.npy", "manifest.json", "table.json",
        "train_inputs.npy", "train_targets.npy",
    ]  # fmt: skip
    (tmp_path / "t.csv").unlink()
    splits = data.open(prepared)
    assert isinstance(splits.train.arrays["inputs"], np.memmap)
    verify(prepared)
    description = json.loads((prepared / "table.json").read_text())
    assert description["target"]["classes"] == ["class_0", "class_1", "class_2"]
    (prepared / "train_inputs.npy").write_bytes((prepared / "train_inputs.npy").read_bytes()[:-4])
    with pytest.raises(ModelwrightError, match="prepared data is damaged"):
        data.open(prepared)


def test_a_process_killed_half_way_leaves_nothing_that_matters(tmp_path: Path) -> None:
    path = tabular.write_csv(tmp_path / "t.csv", tabular.wine() * 30)
    data, cache = _csv(path), tmp_path / "cache"
    process = multiprocessing.get_context("forkserver").Process(target=data.prepare, args=(cache,))
    process.start()
    while process.is_alive() and not list(cache.glob(".*.part/scratch/inputs")):
        time.sleep(0.002)
    assert process.pid is not None and process.is_alive(), "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(cache.glob(".*.part")) and not list(cache.glob("table-*"))
    folder = data.prepare(cache)
    assert not list(cache.glob(".*.part"))
    whole = data.prepare(tmp_path / "whole")
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())


def test_a_file_that_changes_meanwhile_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tabular.write_csv(tmp_path / "t.csv", tabular.wine())
    decide = table_build._decided

    def changed(*arguments: Any) -> Any:
        tabular.write_csv(path, [*tabular.wine(), tabular.wine()[0]])
        return decide(*arguments)

    monkeypatch.setattr(table_build, "_decided", changed)
    with pytest.raises(ModelwrightError, match="changed while it was read"):
        _csv(path).prepare(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("table-*"))


def test_what_became_of_the_columns_is_told(tmp_path: Path) -> None:
    rows = [{"a": "xy"[n % 2], "n": n, "target": n % 3} for n in range(30)]
    told: list[events.Event] = []
    with events.listening(told.append):
        _csv(tabular.write_csv(tmp_path / "t.csv", rows), held_out=0.0).prepare(tmp_path)
    assert told[-1].message == (
        "30 rows of 2 columns (1 of texts) became 3 features; 'target' is taken for classification"
    )
    assert told[-1].details["classes"] == [0, 1, 2]


def test_other_held_out_data_leaves_the_encoder(folder: Path, tmp_path: Path) -> None:
    splits = _open(_csv(folder / "wine.csv"), tmp_path)
    assert splits_of(splits, held_out=(torch.zeros(2, 13), torch.zeros(2))).encoder is splits.encoder


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 9 bytes a row, and with values told apart; the control holds all rows at once."""
    monkeypatch.setattr(table_build, "CHUNK", 50)
    rows = tabular.wine()
    peaks = []
    for times in (2, 8):
        path = tabular.write_csv(tmp_path / f"{times}.csv", rows * times)
        peaks.append(_peak(lambda path=path: _csv(path).prepare(tmp_path / "cache")))
    assert peaks[1] < 1.5 * peaks[0]
    monkeypatch.setattr(table_build, "CHUNK", 10**6)
    assert _peak(lambda: _csv(path).prepare(tmp_path / "control")) > 3 * peaks[1]


def _peak(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_classes_that_are_large_numbers_stay_apart(kind: str, tmp_path: Path) -> None:
    names = [2**53, 2**53 + 1]  # equal as floats
    rows = [{"a": float(place), "target": names[place % 2]} for place in range(20)]
    write = tabular.write_csv if kind == "csv" else tabular.write_jsonl
    path = write(tmp_path / f"rows.{kind}", rows)
    settings: dict[str, Any] = {"files": (str(path),), "target": "target", "held_out": 0.0, "kind": "classification"}
    data = _open(Csv(**settings) if kind == "csv" else Jsonl(**settings), tmp_path)
    found = _all(data.train)["targets"]
    assert data.facts["classes"] == 2
    assert found.tolist() == [0, 1] * 10
    assert data.encoder.decode(torch.eye(2)) == names
