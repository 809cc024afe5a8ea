from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.labelled import write_records

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.batches import read
from modelwright.data.manifest import read_manifest
from modelwright.data.sequences.stdlib_classes import PythonStdlibClasses, _pieces
from modelwright.data.sequences.text_classes import TextClasses
from modelwright.data.tokenizers.byte import Byte

ROWS = [{"text": text, "label": label} for text, label in (("abc", 10), ("d", 9), ("efghij", 10), ("kl", 2))]


def _data(folder: Path, rows: list[dict[str, Any]] = ROWS, **fields: Any) -> TextClasses:
    path = write_records(folder / "rows.jsonl", rows)
    settings: dict[str, Any] = {"tokenizer": Byte(), "held_out": 0.0, "length": 4} | fields
    return TextClasses(files=(str(path),), **settings)


def test_samples_by_hand(tmp_path: Path) -> None:
    data, told = _data(tmp_path), list[Event]()
    with listening(told.append):
        folder = data.prepare(tmp_path / "cache")
    splits = data.open(folder)
    batch = read(splits.train, [0, 1, 2, 3])
    assert batch["inputs"].tolist() == [[97, 98, 99, 0], [100, 0, 0, 0], [101, 102, 103, 104], [107, 108, 0, 0]]
    assert batch["lengths"].tolist() == [3, 1, 4, 2]
    assert batch["targets"].tolist() == [2, 1, 2, 0]  # whole numbers count by their size: 2, 9, 10
    assert read_manifest(folder)["classes"] == ["2", "9", "10"]
    assert splits.facts == {"vocabulary": 257, "classes": 3}
    assert [event.kind for event in told] == ["data-prepared", "rows-cut"]


def test_the_length_may_follow_the_batch(tmp_path: Path) -> None:
    data = _data(tmp_path, length=None)
    train = data.open(data.prepare(tmp_path / "cache")).train
    assert read(train, [1, 3])["inputs"].tolist() == [[100, 0], [107, 108]]
    assert read(train, [1, 2])["inputs"].shape == (2, 6)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for name, text in (("dog/1.txt", b"wow"), ("cat/deep/2.md", b"m\xffw"), ("cat/.hidden", b"no"), ("loose.txt", b"")):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    data, told = TextClasses(folder=str(tmp_path / "texts"), tokenizer=Byte(), held_out=0.0, length=3), list[Event]()
    with listening(told.append):
        folder = data.prepare(tmp_path / "cache")
    batch = read(data.open(folder).train, [0, 1])
    assert batch["inputs"].tolist() == [[*b"m\xffw"], [*b"wow"]]
    assert batch["targets"].tolist() == [0, 1] and read_manifest(folder)["classes"] == ["cat", "dog"]
    assert told[0].kind == "files-ignored" and told[0].details["files"] == ["loose.txt"]
    (tmp_path / "texts" / "dog" / "1.txt").write_bytes(b"woof")
    assert data.prepare(tmp_path / "cache") != folder


def test_files_are_held_out_whole_and_of_each_class(tmp_path: Path) -> None:
    data = PythonStdlibClasses(tokenizer=Byte(), classes=3, pieces=60, length=32, held_out=0.2)
    sources = data.sources()
    files = {part: {row.where for row in source.rows()} for part, source in sources.items()}
    assert not files["train"] & files["held_out"]
    splits = data.open(data.prepare(tmp_path))
    assert splits.held_out is not None and splits.facts["classes"] == 3
    for part in (splits.train, splits.held_out):
        assert set(read(part, np.arange(len(part)))["targets"].tolist()) == {0, 1, 2}
    assert len(splits.train) + len(splits.held_out) <= 180
    assert set(PythonStdlibClasses(held_out=0.0).sources()) == {"train"}


def test_pieces_are_whole_lines() -> None:
    text = b"".join(b"%d\n" % number for number in range(100))
    pieces = list(_pieces(text, 20))
    assert text.startswith(b"".join(pieces)) and len(text) - sum(map(len, pieces)) < 20
    assert all(20 <= len(piece) <= 23 and piece.endswith(b"\n") for piece in pieces)
    assert list(_pieces(b"short", 20)) == [b"short"]


@pytest.mark.parametrize("label", [None, 1.5, "", ["a"]])
def test_bad_labels_are_named(label: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="the label is") as caught:
        _data(tmp_path, [*ROWS, {"text": "a", "label": label}]).prepare(tmp_path / "cache")
    assert caught.value.where.endswith("rows.jsonl:5")


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: TextClasses(), "files"),
        (lambda: TextClasses(files=("a",), folder="b"), "files"),
        (lambda: TextClasses(files=("a",), text="x", label="x"), "label"),
        (lambda: TextClasses(folder="a", length=0), "length"),
        (lambda: TextClasses(folder="gone").sources(), "folder"),
        (lambda: PythonStdlibClasses(classes=1), "classes"),
        (lambda: PythonStdlibClasses(classes=1000).sources(), "classes"),
    ],
)
def test_impossible_settings_are_refused(make: Any, where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        make()
    assert caught.value.where == where and caught.value.remedy
