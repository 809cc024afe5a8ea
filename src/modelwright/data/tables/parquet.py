"""Parquet, read in row groups through pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.data.tables.records import Record, missing_or_refused, unreadable
from modelwright.data.tables.tables import TableFiles

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as error:
    raise MissingExtra("parquet", "reading Parquet") from error

_ROWS = 4096  # rows in memory at once


@dataclass(frozen=True, kw_only=True)
class Parquet(TableFiles):
    """Tables in Parquet files. Lists of numbers become several features."""

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one file."""
        return read(path)


def read(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place (``FILE:ROW``, counting from 1) and a row.

    Raises:
        ModelwrightError: the file is damaged or no Parquet.
    """
    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise arrow_error(path, number, error) from error


def arrow_error(path: Path, number: int, error: Exception) -> ModelwrightError:
    """What pyarrow says of a file, after ``number`` rows of it; it has ``OSError`` for damage too, without a code."""
    if isinstance(error, OSError) and error.errno:
        return missing_or_refused(path, error)
    return unreadable(path, f"after row {number}: {error}")
