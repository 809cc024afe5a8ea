"""Rows to Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modelwright.app.rows.files import check_names
from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import replacing

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as error:
    raise MissingExtra("parquet", "writing Parquet") from error

GROUP = 4096  # rows that are kept in memory and written together


class Parquet:
    """A Parquet file, which appears when it is closed; columns have the types of the first rows."""

    def __init__(self, path: Path) -> None:
        self.done = 0
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._stack = ExitStack()
        self._writer: Any = None
        self._temporary = self._stack.enter_context(replacing(path))

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows."""
        self._names = self._names or [name for row in rows[:1] for name in row]
        check_names(rows, self._names, self._path)
        self._rows += rows
        if len(self._rows) >= GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left, and let the file appear."""
        with self._stack:
            self._flush()
            self._writer.close()

    def _flush(self) -> None:
        schema = self._writer.schema if self._writer is not None else None
        try:
            table = pyarrow.Table.from_pylist(self._rows, schema=schema)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise ModelwrightError(
                f"rows have values of different types: {error}", where=str(self._path), remedy="write .jsonl instead"
            ) from error
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._temporary, table.schema)
        self._writer.write_table(table)
        self._rows = []
