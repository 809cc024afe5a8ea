"""Rows in files: what was written stays."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from modelwright.app.rows.files import row_file
from modelwright.base.errors import ModelwrightError

KINDS = (".jsonl", ".csv", ".parquet", ".txt")
ROWS = [{"text": 'one, "two"\nthree \\ é', "value": 0.25}, {"text": "", "value": None}]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_written_stay_where_an_error_ends_the_block(kind: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet") if kind == ".parquet" else None
    path = tmp_path / f"rows{kind}"
    with pytest.raises(KeyboardInterrupt), row_file(path, KINDS) as file:
        file.write(ROWS[:1])
        file.write(ROWS[1:])
        raise KeyboardInterrupt
    if kind == ".jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    elif kind == ".txt":
        assert path.read_text() == 'one, "two"\\nthree \\\\ é\n\n'
    elif kind == ".csv":
        with path.open(newline="") as table:
            found = list(csv.DictReader(table))
        assert found == [{"text": ROWS[0]["text"], "value": "0.25"}, {"text": "", "value": ""}]
    elif parquet is not None:
        assert parquet.read_table(path).to_pylist() == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_many_rows_of_parquet_are_written_in_groups(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"number": number} for number in range(10_000)]
    with row_file(tmp_path / "rows.parquet", KINDS) as file:
        for begin in range(0, len(rows), 1000):
            file.write(rows[begin : begin + 1000])
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert parquet.ParquetFile(tmp_path / "rows.parquet").num_row_groups > 1


def test_lines_are_safe_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with row_file(path, KINDS) as file:
        file.write(ROWS)
        assert len(path.read_text().splitlines()) == 2


def test_adding_drops_a_torn_line_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    with row_file(path, KINDS, append=True) as file:
        assert file.done == 2
        file.write([{"a": 3}])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    with row_file(tmp_path / "new.jsonl", KINDS, append=True) as file:
        assert file.done == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("mine")
    with pytest.raises(ModelwrightError, match="there already") as caught, row_file(path, KINDS):
        pass
    assert caught.value.where == str(path)
    assert "--append" not in caught.value.remedy
    assert path.read_text() == "mine"


def test_rows_of_other_types_are_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with (
        pytest.raises(ModelwrightError, match="different types") as caught,
        row_file(tmp_path / "a.parquet", KINDS) as f,
    ):
        f.write([{"a": 1}, {"a": "x"}])
    assert ".jsonl" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_a_table_loses_nothing(kind: str, tmp_path: Path) -> None:
    """A name that the first row lacks has no column; one that a later row lacks is empty there."""
    parquet = pytest.importorskip("pyarrow.parquet") if kind == ".parquet" else None
    path = tmp_path / f"rows{kind}"
    with (
        pytest.raises(ModelwrightError, match="has 'note', for which the table has no column") as caught,
        row_file(path, KINDS) as file,
    ):
        file.write([{"a": "1", "b": "2"}])
        file.write([{"a": "3"}])
        file.write([{"a": "4", "note": "lost"}])
    assert (caught.value.where, caught.value.remedy) == (str(path), "write .jsonl instead")
    if parquet is not None:
        assert parquet.read_table(path).to_pylist() == [{"a": "1", "b": "2"}, {"a": "3", "b": None}]
    else:
        assert path.read_text().splitlines() == ["a,b", "1,2", "3,"]


def test_standard_output_gets_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with row_file(None, KINDS) as file:
        file.write(ROWS)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
