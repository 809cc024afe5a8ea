"""What becomes of values that are missing, odd, unknown or of the wrong kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import tabular

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.tables import encoder as table_encoder
from modelwright.data.tables.csv_files import Csv
from modelwright.data.tables.jsonl import Jsonl

NUMBERS = [{"a": float(number), "b": number / 2, "target": number / 3} for number in range(1, 9)]


def _jsonl(folder: Path, rows: Any, **fields: Any) -> Any:
    path = tabular.write_jsonl(folder / "t.jsonl", rows)
    return Jsonl(files=(str(path),), **({"target": "target", "held_out": 0.0, "standardise": False} | fields))


def _open(folder: Path, rows: Any, **fields: Any) -> Any:
    data = _jsonl(folder, rows, **fields)
    return data.open(data.prepare(folder / "cache"))


def _train(splits: Any) -> Any:
    return read(splits.train, np.arange(len(splits.train)))


@pytest.mark.parametrize("nothing", ["", "NA", " nan ", "null", "N/A"])
def test_missing_numbers_in_texts(nothing: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"a,b,target\n1,2,0.5\n3,{nothing},1.5\n5,4,2.5\n", "utf-8")
    fields: dict[str, Any] = {"files": (str(tmp_path / "t.csv"),), "target": "target", "held_out": 0.0}
    with pytest.raises(ModelwrightError) as caught:
        Csv(**fields).prepare(tmp_path / "cache")
    assert caught.value.what == "column 'b' has no value"
    assert caught.value.where == f"{tmp_path / 't.csv'}:3"
    assert "missing: mean" in caught.value.remedy
    data = Csv(**fields, missing="mean", standardise=False)
    assert _train(data.open(data.prepare(tmp_path / "cache")))["inputs"].tolist() == [[1, 2], [3, 3], [5, 4]]


def test_missing_numbers_take_the_mean_of_training_rows(tmp_path: Path) -> None:
    """Of training rows only: held-out ones are far away here."""
    train = [{"a": value, "target": 0.5} for value in (1.0, None, 3.0)]
    held_out = [{"a": value, "target": 0.5} for value in (1000.0, None)]
    held = str(tabular.write_jsonl(tmp_path / "h.jsonl", held_out))
    for standardise, filled in ((False, 2.0), (True, 0.0)):
        splits = _open(tmp_path, train, missing="mean", held_out=None, held_out_files=(held,), standardise=standardise)
        assert _train(splits)["inputs"][1].item() == filled
        assert read(splits.held_out, [1])["inputs"].item() == filled
        assert splits.encoder.encode([{"a": None}, {}])["inputs"].tolist() == [[filled], [filled]]


def test_absent_keys_are_missing_and_new_ones_are_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*NUMBERS, {"a": 1.0, "target": 0.25}]
    assert _train(_open(tmp_path, rows, missing="mean"))["inputs"][-1].tolist() == [1.0, 2.25]
    rows = [*NUMBERS, NUMBERS[0] | {"c": 3}]
    with pytest.raises(ModelwrightError, match="column 'c' is not in the first row") as caught:
        _open(tmp_path, rows)
    assert (caught.value.where.endswith(":9"), "features" in caught.value.remedy) == (True, True)
    assert _open(tmp_path, rows, features=("b", "a")).facts["features"] == 2


def test_missing_texts_are_no_category(tmp_path: Path) -> None:
    rows = [{"a": text, "target": 0.5} for text in ("x", None, "none", "")]
    with pytest.raises(ModelwrightError, match="column 'a' has no value") as caught:
        _open(tmp_path, rows)
    assert caught.value.where.endswith(":2")
    splits = _open(tmp_path, rows, missing="mean")
    assert _train(splits)["inputs"].tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]


def test_unknown_categories_count_as_none_and_are_told(tmp_path: Path) -> None:
    held = str(tabular.write_jsonl(tmp_path / "h.jsonl", [{"a": "z", "target": 0.5}]))
    train = [{"a": text, "target": 0.5} for text in "xy"]
    told: list[events.Event] = []
    with events.listening(told.append):
        splits = _open(tmp_path, train, held_out=None, held_out_files=(held,))
        assert splits.encoder.encode([{"a": "y"}, {"a": "w"}])["inputs"].tolist() == [[0, 1], [0, 0]]
    assert read(splits.held_out, [0])["inputs"].tolist() == [[0, 0]]
    unknown = [event.message for event in told if event.kind == "unknown-categories"]
    assert unknown == [
        f"1 values of column 'a' are in no training row, such as '{text}'; they count as none" for text in "zw"
    ]


def test_lists_become_several_features(tmp_path: Path) -> None:
    rows = [{"v": [1, None, 3], "n": 4, "target": 0.5}, {"v": [5.5, 6, 7], "n": 8, "target": 1.5}]
    splits = _open(tmp_path, rows, missing="mean")
    assert _train(splits)["inputs"].tolist() == [[1, 6, 3, 4], [5.5, 6, 7, 8]]
    assert splits.encoder.encode([{"v": None, "n": 1}])["inputs"].tolist() == [[3.25, 6, 5, 1]]
    with pytest.raises(ModelwrightError, match="lists of 3 numbers, and here stands 2 values"):
        splits.encoder.encode([{"v": [1, 2], "n": 1}])


def test_truth_values_and_whole_numbers_in_json(tmp_path: Path) -> None:
    splits = _open(tmp_path, [{"a": True, "target": False}, {"a": False, "target": True}])
    assert _train(splits)["inputs"].tolist() == [[1], [0]]
    assert splits.encoder.decode(torch.eye(2)) == ["False", "True"]


@pytest.mark.parametrize(
    ("targets", "kind", "classes"),
    [
        ([2, 10, 1, 2], "auto", [1, 2, 10]),
        (["2", "10", "1", "02"], "auto", [1, 2, 10]),
        (["b", "a", "b", "10"], "classification", ["10", "a", "b"]),
        ([1.5, 2.5, 1.5, 2.0], "classification", [1.5, 2, 2.5]),
        (["none", "a", "b", "a"], "auto", ["a", "b", "none"]),
        ([1.0, 2.0, 1.0, 2.0], "auto", None),
        (list(range(21)), "auto", None),
        ([0, 1, 0, 1], "regression", None),
    ],
)
def test_the_kind_of_target(targets: list[Any], kind: str, classes: list[Any] | None, tmp_path: Path) -> None:
    rows = [{"a": float(number), "target": target} for number, target in enumerate(targets)]
    splits = _open(tmp_path, rows, kind=kind)
    found = splits.encoder.target.described()
    assert found.get("classes") == classes
    if classes is not None:
        names = [classes.index(float(target) if classes == [1, 2, 10] else target) for target in targets]
        assert _train(splits)["targets"].tolist() == names
        assert splits.facts["classes"] == len(classes)
    else:
        assert _train(splits)["targets"][:, 0].tolist() == [float(target) for target in targets]


def test_a_class_that_only_held_out_rows_have_is_a_class(tmp_path: Path) -> None:
    held = str(tabular.write_jsonl(tmp_path / "h.jsonl", [{"a": 1, "target": "c"}]))
    splits = _open(tmp_path, [{"a": 1, "target": text} for text in "ab"], held_out=None, held_out_files=(held,))
    assert (splits.facts["classes"], read(splits.held_out, [0])["targets"].item()) == (3, 2)


BAD = [
    ([*NUMBERS, {"a": "x", "b": 1, "target": 1}], {}, "column 'a' holds numbers, and 'x'", ":9", "categorical: [a]"),
    ([*NUMBERS, {"a": 1, "b": 1, "target": "x"}], {}, "holds numbers, and 'x'", ":9", "kind: classification"),
    ([*NUMBERS, {"a": 1, "b": 1, "target": None}], {}, "no target: 'target' is missing", ":9", "take the row out"),
    ([*NUMBERS, {"a": 1, "b": 1}], {}, "no target: 'target' is missing", ":9", "take the row out"),
    ([*NUMBERS, {"a": 1e999, "b": 1, "target": 1}], {}, "'a' holds numbers, and here stands an infinite", ":9", "mend"),
    (
        [*NUMBERS, {"a": 10**400, "b": 1, "target": 1}],
        {},
        "'a' holds numbers, and here stands an infinite",
        ":9",
        "mend",
    ),
    ([*NUMBERS, {"a": [1, 2], "b": 1, "target": 1}], {}, "1 numbers in one row and 2 in another", ":9", "features"),
    ([*NUMBERS, {"a": {}, "b": 1, "target": 1}], {}, "column 'a' holds objects", ":9", "features"),
    ([*NUMBERS, {"a": ["x"], "b": 1, "target": 1}], {}, "lists of something other", ":9", "features"),
    ([*NUMBERS, {"a": 1, "b": 1, "target": [1, 2]}], {"kind": "regression"}, "lists of 2 values", ":9", "another"),
    ([*NUMBERS, {"a": 1e300, "b": 1, "target": 1}], {}, "'a' holds numbers beyond float32", "", "standardise"),
    (
        [*NUMBERS, {"a": 1e300, "b": 1, "target": 1}],
        {"standardise": True},
        "'a' holds numbers that are too large",
        "",
        "scale",
    ),
    (NUMBERS, {"target": "tarmac"}, "there is no column 'tarmac'", "target or features", "did you mean 'target'?"),
    (NUMBERS, {"features": ("a", "z")}, "there is no column 'z'", "target or features", "known: a, b, target"),
    ([{"a": None, "target": 1.5}], {"missing": "mean"}, "'a' holds no value in any row", "t.jsonl", "features"),
    ([{"target": 1.5}], {}, "no column but the target", "t.jsonl", "other files"),
    ([], {}, "the files hold no rows", "t.jsonl", "other files"),
    ([{"a": 1, "target": "x"}], {}, "1 different values: there is nothing to tell apart", "target", "another target"),
    ([{"a": 1, "target": "x"}], {"kind": "regression"}, "is to be a number, and is 'x'", ":1", "classification"),
    ([{"a": f"{n}x", "target": n / 2} for n in range(1001)], {}, "over 1000 different texts", ":1", "codes"),
]


@pytest.mark.parametrize(("rows", "fields", "what", "where", "remedy"), BAD)
def test_unusable_values_are_named(
    rows: Any, fields: dict[str, Any], what: str, where: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _open(tmp_path, rows, **fields)
    assert what in caught.value.what
    assert caught.value.where.endswith(where)
    assert remedy in caught.value.remedy
    assert not list((tmp_path / "cache").glob("table-*"))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"kind": "cluster"}, "kind"),
        ({"missing": "zero"}, "missing"),
        ({"categories": "hash"}, "categories"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": -0.1}, "held_out"),
        ({"held_out": 0.1, "held_out_files": ("x",)}, "held_out"),
        ({"features": ("a", "target")}, "features"),
        ({"features": ("a", "a")}, "features"),
        ({"files": ()}, "files"),
        ({"separator": "::"}, "separator"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        Csv(**({"files": ("t.csv",), "target": "target"} | fields))
    assert caught.value.where == where


def test_a_file_in_both_parts_is_refused(tmp_path: Path) -> None:
    path = str(tabular.write_jsonl(tmp_path / "t.jsonl", NUMBERS))
    with pytest.raises(ModelwrightError, match="learnt from and judged by"):
        _jsonl(tmp_path, NUMBERS, held_out=None, held_out_files=(path,)).prepare(tmp_path / "cache")


def test_new_rows_that_cannot_be_encoded_are_named(tmp_path: Path) -> None:
    encoder = _open(tmp_path, NUMBERS).encoder
    for row, what in (({"a": 1}, "column 'b' has no value"), ({"a": "x", "b": 1}, "'a' holds numbers, and here")):
        with pytest.raises(ModelwrightError, match=what) as caught:
            encoder.encode([NUMBERS[0], row])
        assert caught.value.where == "row 2"
    assert encoder.encode([])["inputs"].shape == (0, 2)


def test_a_description_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    data = _jsonl(tmp_path, NUMBERS)
    folder = data.prepare(tmp_path / "cache")
    description = json.loads((folder / table_encoder.FILE).read_text())
    for changed, what in (({"format": 2}, "newer modelwright"), ({"columns": [{"name": "a"}]}, "damaged: KeyError")):
        (folder / table_encoder.FILE).write_text(json.dumps(description | changed))
        with pytest.raises(ModelwrightError, match=what):
            table_encoder.load(folder)


def test_values_that_are_missing_are_told(tmp_path: Path) -> None:
    told: list[events.Event] = []
    with events.listening(told.append):
        splits = _open(tmp_path, [*NUMBERS, {"a": 1.0, "target": 0.25}], missing="mean")
        splits.encoder.encode([{"A": 3.0, "b": 1.0}, {"A": 4.0, "b": 2.0}])
        splits.encoder.encode([{"a": 3.0, "b": 1.0}])
    found = [event for event in told if event.kind == "missing-values"]
    assert [(event.level, event.details["column"], event.details["values"]) for event in found] == [
        ("info", "b", 1),
        ("warning", "a", 2),
    ]
    assert found[1].message.startswith("2 of 2 rows have no value in column 'a'")
    assert found[1].message.endswith("is it under another name?")
