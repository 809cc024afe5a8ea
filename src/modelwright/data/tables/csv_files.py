"""CSV and TSV: the first line names the columns."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.records import Record, kind_of, lines, malformed, unreadable
from modelwright.data.tables.tables import TableFiles

csv.field_size_limit(sys.maxsize)  # a field may be a whole document; the module's own limit is 128 KiB


@dataclass(frozen=True, kw_only=True)
class Csv(TableFiles):
    """Tables in CSV or TSV files, perhaps ``.gz``, whose first line names the columns.

    Attributes:
        separator: what stands between fields; a tab in ``.tsv``, else a comma.
    """

    separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator is not None and len(self.separator) != 1:
            raise ModelwrightError("a separator is a single character", where="separator", remedy="separator: ';'")

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one file."""
        return read(path, self.separator)


def read(path: Path, separator: str | None = None) -> Iterator[tuple[str, Record]]:
    """Pairs of a place and a row of texts; quotes as in RFC 4180, blank lines are passed over.

    Args:
        path: the file, perhaps ``.gz``.
        separator: what stands between fields; a tab in ``.tsv``, else a comma.

    Raises:
        ModelwrightError: a row has more or fewer fields than the header, or quotes are not closed.
    """
    rows = _fields(path, separator or ("\t" if kind_of(path) == ".tsv" else ","))
    try:
        number, names = next(rows)
    except StopIteration:
        raise unreadable(path, "it is empty", "the first line names the columns") from None
    _check_header(path, number, names)
    for number, fields in rows:
        if len(fields) != len(names):
            raise malformed(path, number, _uneven(fields, names))
        yield f"{path}:{number}", dict(zip(names, fields, strict=True))


def _fields(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they begin in: a quoted field may run over several."""
    rows = csv.reader((line for _, line in lines(path)), delimiter=separator, strict=True)
    while True:
        begins = rows.line_num + 1
        try:
            fields = next(rows, None)
        except csv.Error as error:
            raise malformed(path, begins, str(error), "close every quote, and double a quote inside quotes") from error
        if fields is None:
            return
        if fields:
            yield begins, fields


def _check_header(path: Path, number: int, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise malformed(path, number, f"two columns are named '{twice[0]}'", "give each column its own name, in line 1")
    if len(names) == 1 and (others := [mark for mark in ";\t|" if mark in names[0]]):
        raise malformed(path, number, "it is one column", f"set separator: {others[0]!r}, or write it with commas")
    if all(map(_is_fraction, names)):
        raise malformed(path, number, "it holds numbers, not the names of columns", "add a line of names at the top")


def _is_fraction(text: str) -> bool:
    try:
        return "." in text and float(text) is not None
    except ValueError:
        return False


def _uneven(fields: Sequence[str], names: Sequence[str]) -> str:
    return f"it has {len(fields)} fields where the header has {len(names)}"
