"""Rows written to a file as they come: what is finished stays, whatever becomes of the process."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import speaking
from modelwright.runs import jsonlines

Row = dict[str, Any]

WRITERS = Family(
    "kind of file",
    {
        ".jsonl": "modelwright.app.rows.files:JsonLines",
        ".csv": "modelwright.app.rows.files:Csv",
        ".txt": "modelwright.app.rows.files:Texts",
        ".parquet": "modelwright.app.rows.parquet:Parquet",
    },
)


class RowWriter(Protocol):
    """Takes rows; in a table all of them have the names of the first, or some of these."""

    done: int
    """Rows that the file held before."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows; they are safe at once, or, in Parquet, when the file is closed."""
        ...

    def close(self) -> None:
        """Close the file; what was written stays, also where an error or Ctrl-C led here."""
        ...


def alike(rows: Sequence[Row]) -> list[Row]:
    """The rows with all names that any of them has, ``None`` where it has none: as a table needs them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def check_names(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """Refuse what a table has no column for: it would be lost.

    Raises:
        ModelwrightError: a row has a name that the first row has not.
    """
    for row in rows:
        if strange := [name for name in row if name not in names]:
            raise ModelwrightError(
                f"a row has '{strange[0]}', for which the table has no column: the first row has none",
                where=str(path),
                remedy="write .jsonl instead",
            )


@contextmanager
def row_file(path: Path | None, kinds: Sequence[str], *, append: bool = False) -> Iterator[RowWriter]:
    """A writer for ``path``, chosen by the end of its name; ``None``: JSON lines to standard output.

    Args:
        path: the file.
        kinds: ends of names that suit what is to be written.
        append: go on behind the rows that the file holds; JSON lines only.

    Raises:
        ModelwrightError: another kind, the file is there already, or it cannot be written.
        MissingExtra: Parquet needs an optional part.
    """
    if append and (path is None or path.suffix.lower() != ".jsonl"):
        raise ModelwrightError(
            "only JSON lines can be added to", where="--append", remedy="give --out a name that ends in .jsonl"
        )
    writer = Printed() if path is None else _writer(path, kinds, append)
    try:
        yield writer
    finally:
        writer.close()


class Printed:
    """JSON lines on standard output."""

    done = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Print them."""
        for row in rows:
            sys.stdout.write(jsonlines.encode(row).decode())
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing to do."""


class JsonLines:
    """One JSON object a line. A torn last line, as a kill leaves it, is dropped when the file is added to."""

    def __init__(self, path: Path) -> None:
        self.done = _whole_lines(path) if path.exists() else 0
        self._file = jsonlines.Appender(path)

    def write(self, rows: Sequence[Row]) -> None:
        """Add one line for each row."""
        self._file.append(b"".join(map(jsonlines.encode, rows)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Csv:
    """Comma-separated values under the names of the first row; lists and the like as JSON."""

    def __init__(self, path: Path) -> None:
        self.done = 0
        self._path = path
        self._file = jsonlines.Appender(path)
        self._names: list[str] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Add one line for each row."""
        text = StringIO()
        writer = csv.writer(text)
        if rows and not self._names:
            self._names = list(rows[0])
            writer.writerow(self._names)
        check_names(rows, self._names, self._path)
        writer.writerows([_cell(row.get(name)) for name in self._names] for row in rows)
        self._file.append(text.getvalue().encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Texts:
    r"""The ``text`` of each row in a line of its own, with line feeds as ``\n`` and backslashes as ``\\``."""

    def __init__(self, path: Path) -> None:
        self.done = 0
        self._file = jsonlines.Appender(path)

    def write(self, rows: Sequence[Row]) -> None:
        """Add one line for each row."""
        lines = "".join(_one_line(row["text"]) + "\n" for row in rows)
        self._file.append(lines.encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _writer(path: Path, kinds: Sequence[str], append: bool) -> RowWriter:
    kind = path.suffix.lower()
    if kind not in kinds:
        raise ModelwrightError(
            f"'{path.name}' is of no kind that can be written here",
            where=str(path),
            remedy=f"its name must end in {', '.join(kinds)}",
        )
    if path.exists() and not append:
        more = ", or --append to go on behind its rows" if kind == ".jsonl" else ""
        raise ModelwrightError(
            "the file is there already", where=str(path), remedy=f"choose another name{more}; or remove it first"
        )
    writer: RowWriter = WRITERS.resolve(kind)(path)
    return writer


def _whole_lines(path: Path) -> int:
    size = jsonlines.whole_size(path)
    with speaking(path), path.open("rb+") as file:
        file.truncate(size)
        return sum(1 for _ in file)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
