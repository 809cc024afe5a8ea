from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data import tabular

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.records import find_files, placed, records

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@pytest.mark.parametrize("name", ["wine.csv", "wine.csv.gz", "wine.jsonl", "wine.parquet"])
def test_rows_of_every_kind(name: str, tmp_path: Path) -> None:
    rows = tabular.wine()
    path = tmp_path / name
    write = {"csv": tabular.write_csv, "jsonl": tabular.write_jsonl, "parquet": tabular.write_parquet}
    write[name.split(".")[1]](path, rows)
    found = list(records(path))
    expected: list[Any] = rows
    if ".csv" in name:
        raw = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
        expected = list(csv.DictReader(raw.decode().splitlines()))
    assert found == expected


@given(rows=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=6), separator=st.sampled_from(",\t"))
def test_any_csv_comes_back(rows: list[list[str]], separator: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / ("t.csv" if separator == "," else "t.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([["a", "b"], *rows])
    assert [list(row.values()) for row in records(path)] == rows


def test_places_are_the_lines_that_rows_begin_in(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n\r\n2,z\r\n')
    assert list(placed(path)) == [(f"{path}:2", {"a": "1", "b": "x\ny"}), (f"{path}:5", {"a": "2", "b": "z"})]
    path = tmp_path / "t.ndjson"
    path.write_text('{"a": 1}\n\n{"a": 2}', "utf-8")
    assert [place for place, _ in placed(path)] == [f"{path}:1", f"{path}:3"]


def test_long_fields_are_documents(tmp_path: Path) -> None:
    path = tabular.write_csv(tmp_path / "t.csv", [{"text": "long " * 100_000, "b": 1}])
    assert len(next(records(path))["text"]) == 500_000


PACKED = gzip.compress(b"a,b\n" + b"1,2\n" * 5000)
BAD = {
    "short.csv": (b"a,b\n1,2\n3\n", ":3", "1 fields where the header has 2"),
    "long.csv": (b"a,b\n1,2,3\n", ":2", "3 fields where the header has 2"),
    "open.csv": (b'a,b\n1,2\n1,"2\n3,4\n', ":3", "unexpected end of data"),
    "stray.csv": (b'a,b\n1,"2"x\n', ":2", "expected after"),
    "latin.csv": ("a,b\n1,é\n".encode("latin-1"), ":2", "0xe9 is no UTF-8"),
    "twice.csv": (b"a,a\n1,2\n", ":1", "two columns are named 'a'"),
    "nameless.csv": (b"1.5,2.5\n1,2\n", ":1", "numbers, not the names of columns"),
    "semicolons.csv": (b"a;b\n1;2\n", ":1", "it is one column"),
    "empty.csv": (b"", "", "it is empty"),
    "cut.csv.gz": (PACKED[: len(PACKED) // 2], "", "cut short"),
    "plain.csv.gz": (b"a,b\n1,2\n", "", "no gzip file"),
    "broken.jsonl": (b'{"a": 1}\n{"a": 1,}\n', ":2", "it is no JSON"),
    "cut.jsonl": (b'{"a": 1}\n{"a": ', ":2", "it is no JSON"),
    "list.jsonl": (b"\n[1, 2]\n", ":2", "it is a list, not an object"),
    "latin.jsonl": ('{"a": "é"}\n'.encode("latin-1"), ":1", "no UTF-8"),
    "junk.parquet": (b"PAR1 junk", "", "after row 0"),
    "table.xls": (b"junk", "", "no kind that is read by rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_rows_are_named(name: str, tmp_path: Path) -> None:
    data, line, what = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelwrightError) as caught:
        list(records(tmp_path / name))
    assert what in caught.value.what
    assert caught.value.where == f"{tmp_path / name}{line}"
    assert caught.value.remedy


def test_a_parquet_file_cut_short_or_altered_is_named(tmp_path: Path) -> None:
    path = tabular.write_parquet(tmp_path / "t.parquet", tabular.wine())
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[: len(whole) // 2], whole[:20] + bytes(2000) + whole[2020:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelwrightError, match="cannot be read: after row 0") as caught:
            list(records(path))
        assert caught.value.where == str(path)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "parquet", "arrow", "tfrecord", "tar"])
def test_missing_files_are_named(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"gone.{ending}"
    with pytest.raises(ModelwrightError, match=r"cannot be read: .*[Nn]o such file") as caught:
        list(records(path))
    assert (caught.value.where, bool(caught.value.remedy)) == (str(path), True)


def test_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.csv", "a.csv", "in/c.csv"):
        (tmp_path / name).write_text("a\n1\n", "utf-8")
    found = find_files(["*.csv", "**/*.csv"], root=str(tmp_path))
    assert found == [tmp_path / name for name in ("a.csv", "b.csv", "in/c.csv")]
    assert find_files([str(tmp_path / "a.csv")]) == [tmp_path / "a.csv"]
    with pytest.raises(ModelwrightError, match=r"no file matches '\*.tsv' in") as caught:
        find_files(["*.csv", "*.tsv"], "tables", str(tmp_path))
    assert caught.value.where == "tables"
    with pytest.raises(ModelwrightError, match="no files are named"):
        find_files([], "tables")


def test_json_lines_are_what_json_says(tmp_path: Path) -> None:
    rows = [{"a": None, "b": [1, 2.5], "c": {"d": "é\u2028x"}}, {"a": True}]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), "utf-8")
    assert list(records(path)) == rows
