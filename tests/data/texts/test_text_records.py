from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data import tabular

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.texts.text_records import TextRecords
from modelwright.data.tokenizers.byte import Byte

TEXTS = [f"number {number} " * (5 + number) for number in range(30)]


def _data(folder: Path, **fields: Any) -> TextRecords:
    settings: dict[str, Any] = {"files": ("t.*",), "text": "content", "context": 8, "tokenizer": Byte()}
    return TextRecords(root=str(folder), **(settings | {"held_out": 0.2} | fields))


def _all(data: TextRecords, cache: Path) -> tuple[bytes, dict[str, bytes]]:
    splits = data.open(data.prepare(cache))
    assert splits.tokenizer is not None and splits.documents is not None
    train = b"".join(splits.tokenizer.decode(row["inputs"][0].tolist()) for row in _rows(splits.train))
    return train, dict(splits.documents)


def _rows(dataset: Any) -> Any:
    return (dataset.__getitems__([number]) for number in range(len(dataset)))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "csv.gz", "parquet", "tfrecord"])
def test_every_row_is_a_document(ending: str, tmp_path: Path) -> None:
    rows = [{"content": text, "other": number} for number, text in enumerate(TEXTS)]
    write: Any = {
        "jsonl": tabular.write_jsonl,
        "csv": tabular.write_csv,
        "parquet": tabular.write_parquet,
        "tfrecord": tabular.write_tfrecord,
    }[ending.split(".")[0]]
    write(tmp_path / f"t.{ending}", rows)
    train, held_out = _all(_data(tmp_path), tmp_path / "cache")
    texts = {text.encode() for text in TEXTS}
    assert 1 <= len(held_out) < 15 and set(held_out.values()) < texts
    assert all(text not in train for text in held_out.values())
    assert sum(text in train for text in texts - set(held_out.values())) >= 29 - len(held_out)  # the end is cut
    assert all(name.startswith(f"t.{ending}:") for name in held_out)


def test_rows_are_split_by_their_line_so_that_more_rows_move_no_others(tmp_path: Path) -> None:
    names = []
    for count in (25, 30):
        tabular.write_jsonl(tmp_path / "t.jsonl", ({"content": text} for text in TEXTS[:count]))
        names.append(set(_all(_data(tmp_path), tmp_path / "cache")[1]))
    assert {name for name in names[1] if int(name.split(":")[1]) <= 25} == names[0]


def test_files_and_rows_of_the_same_texts_give_the_same_tokens(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "files" / f"{number:02}.txt").write_text(text, "utf-8")
    files = TextFiles(
        files=("*.txt",), root=str(tmp_path / "files"), context=8, tokenizer=Byte(), held_out=0.0
    ).prepare(tmp_path / "cache")
    tabular.write_jsonl(tmp_path / "t.jsonl", ({"content": text} for text in TEXTS))
    rows = _data(tmp_path, held_out=0.0).prepare(tmp_path / "cache")
    assert (files / "train.bin").read_bytes() == (rows / "train.bin").read_bytes()


def test_empty_rows_and_copies_are_left_out_and_told(tmp_path: Path) -> None:
    tabular.write_jsonl(tmp_path / "t.jsonl", [{"content": text} for text in ("one one one", None, "two two two", "")])
    with (tmp_path / "t.jsonl").open("a") as file:
        file.write('{"content": "one one one"}\n')
    told: list[events.Event] = []
    with events.listening(told.append):
        _data(tmp_path).prepare(tmp_path / "cache")
    assert told[0].message == "3 of 5 rows are empty or copies of others"
    assert told[0].details["files"] == ["t.jsonl:2", "t.jsonl:4", "t.jsonl:5"]
    assert told[1].message.startswith("2 rows, 22 B, became")


@pytest.mark.parametrize(
    ("row", "what", "remedy"),
    [
        ({"contents": "x"}, "there is no column 'content'", "did you mean 'contents'?"),
        ({"content": 3}, "column 'content' holds a int, not a text", "another column"),
        ({"content": ""}, "the only row is empty", "other files"),
    ],
)
def test_unusable_rows_are_named(row: dict[str, Any], what: str, remedy: str, tmp_path: Path) -> None:
    path = tabular.write_jsonl(tmp_path / "t.jsonl", [row])
    with pytest.raises(ModelwrightError) as caught:
        _data(tmp_path).prepare(tmp_path / "cache")
    assert what in caught.value.what and remedy in caught.value.remedy
    assert caught.value.where in (f"{path}:1", str(path))


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="no files are named"):
        _data(tmp_path, files=())
    with pytest.raises(ModelwrightError, match="no file matches 't"):
        _data(tmp_path).prepare(tmp_path)
