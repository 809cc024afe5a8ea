from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.data.labelled import write_records

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.sequences.sources import Made, Parts, RecordFiles, Row, record_files


def _made(count: int) -> Made:
    def make() -> Iterator[Row]:
        return (Row(f"row {number}", {"q": number}) for number in range(count))

    return Made("key", make)


def _held(count: int, fraction: float = 0.3, seed: int = 0) -> set[int]:
    parts = Parts({"train": _made(count)}, fraction, seed, lambda row: row.values["q"])
    held, train = ([row.values["q"] for row in parts.rows(part)] for part in ("held_out", "train"))
    assert sorted(held + train) == list(range(count))
    return set(held)


def test_more_rows_leave_the_others_where_they_are() -> None:
    few, many = _held(400), _held(800)
    assert few == {number for number in many if number < 400}
    assert 80 < len(few) < 160
    assert _held(400, seed=1) != few


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_each_side_has_one_at_least(fraction: float) -> None:
    assert 1 <= len(_held(2, fraction)) < 2
    assert 1 <= len(_held(50, fraction)) < 50


def test_rows_that_ask_the_same_stay_together() -> None:
    rows = [Row("", {"q": number // 10}) for number in range(200)]
    parts = Parts({"train": Made("", lambda: rows)}, 0.3, 0, lambda row: row.values["q"])
    held, train = ({row.values["q"] for row in parts.rows(part)} for part in ("held_out", "train"))
    assert held and train and not held & train and held | train == set(range(20))


def test_rows_that_are_alike_cannot_be_held_out() -> None:
    told: list[Event] = []
    with listening(told.append):
        parts = Parts({"train": Made("", lambda: [Row("", {})] * 4)}, 0.5, 0, lambda row: "same")
    assert parts.names == ["train"] and [event.kind for event in told] == ["nothing-held-out"]
    assert len(list(parts.rows("train"))) == 4


def test_a_source_of_their_own_is_taken_whole() -> None:
    parts = Parts({"train": _made(5), "held_out": _made(2)}, 0.5, 0, lambda row: row.values["q"])
    assert [len(list(parts.rows(part))) for part in parts.names] == [5, 2]


@pytest.mark.parametrize(
    ("values", "what"), [({"txt": "a"}, "no column 'text'"), ({"text": 3}, "a int, not"), ({"text": None}, "empty")]
)
def test_wrong_columns_name_the_line(values: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = write_records(tmp_path / "rows.jsonl", [{"text": "fine"}, values])
    rows = list(record_files([str(path)], [], ".")["train"].rows())
    assert rows[0].text("text") == "fine"
    with pytest.raises(ModelwrightError, match=what) as caught:
        rows[1].text("text")
    assert caught.value.where == f"{path}:2"


def test_a_file_is_not_learnt_from_and_judged_by(tmp_path: Path) -> None:
    write_records(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(ModelwrightError) as caught:
        record_files(["*.jsonl"], ["rows.*"], str(tmp_path))
    assert caught.value.where == "held_out_files"


def test_the_key_is_the_content_not_the_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / f"{name}.jsonl", [{"text": "same"}])
    write_records(tmp_path / "c.jsonl", [{"text": "other"}])
    keys = [record_files([f"{name}.jsonl"], [], str(tmp_path))["train"].key for name in "abc"]
    assert keys[0] == keys[1] != keys[2]


def test_the_same_bytes_of_another_kind_are_other_rows(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.csv", "a.tsv")]
    for path in paths:
        path.write_text("source\ttarget\na,b\tc\n")
    keys = [RecordFiles((path,)).key for path in paths]
    assert keys[0] == keys[1] != keys[2]
