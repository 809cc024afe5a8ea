"""Rows of numbers of different lengths on disk, memory-mapped.

For each column of a part: ``PART.COLUMN.bin``, all rows one after the other as little-endian int32, and
``PART.COLUMN.ends.npy``, where each row ends, int64 ``[rows]``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import speaking

_KIND = np.dtype("<i4")


def write_ragged(folder: Path, part: str, columns: Sequence[str], rows: Iterable[Mapping[str, NDArray[Any]]]) -> int:
    """Write ``rows``, one at a time; returns how many there were.

    Raises:
        ModelwrightError: the disk is full.
    """
    ends = {name: array("q") for name in columns}
    with speaking(folder), ExitStack() as stack:
        files = {name: stack.enter_context(_bin(folder, part, name).open("wb")) for name in columns}
        for row in rows:
            for name in columns:
                files[name].write(row[name].astype(_KIND).tobytes())
                ends[name].append(len(row[name]) + (ends[name][-1] if ends[name] else 0))
        for name in columns:
            np.save(_ends(folder, part, name), np.array(ends[name], dtype=np.int64))
    return len(ends[columns[0]])


class Ragged:
    """What :func:`write_ragged` wrote.

    Args:
        folder: where it lies.
        part: ``train`` or ``held_out``.
        columns: their names.

    Raises:
        ModelwrightError: a file is missing or cut short.
    """

    def __init__(self, folder: Path, part: str, columns: Sequence[str]) -> None:
        self._ends = {name: _loaded(_ends(folder, part, name)) for name in columns}
        self._values = {name: _mapped(_bin(folder, part, name), self._ends[name]) for name in columns}

    def __len__(self) -> int:
        return len(next(iter(self._ends.values())))

    def lengths(self, column: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers in each row, int64 ``[rows]``."""
        return self._ends[column][positions] - self._starts(column, positions)

    def padded(self, column: str, positions: NDArray[np.int64], length: int | None, fill: int) -> NDArray[np.int64]:
        """Rows cut or filled up to ``length`` numbers; ``None``: to the longest of these rows.

        Returns:
            int64 ``[rows, length]``.
        """
        starts, lengths = self._starts(column, positions), self.lengths(column, positions)
        width = int(lengths.max(initial=0)) if length is None else length
        places = np.arange(width)
        inside = places < lengths[:, None]
        if not inside.any():
            return np.full((len(positions), width), fill, dtype=np.int64)
        values = np.take(self._values[column], np.where(inside, starts[:, None] + places, 0))
        return np.where(inside, values, fill).astype(np.int64)

    def _starts(self, column: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        ends = self._ends[column]
        return np.where(positions > 0, ends[np.maximum(positions - 1, 0)], 0)


def _bin(folder: Path, part: str, column: str) -> Path:
    return folder / f"{part}.{column}.bin"


def _ends(folder: Path, part: str, column: str) -> Path:
    return folder / f"{part}.{column}.ends.npy"


def _loaded(path: Path) -> NDArray[np.int64]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), dtype=np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error


def _mapped(path: Path, ends: NDArray[np.int64]) -> NDArray[Any]:
    total = int(ends[-1]) if len(ends) else 0
    found = path.stat().st_size if path.is_file() else -1
    if found != total * _KIND.itemsize:
        raise _damaged(path, f"it has {max(found, 0)} bytes where {total * _KIND.itemsize} are expected")
    if total == 0:  # nothing can be mapped from an empty file
        return np.empty(0, dtype=_KIND)
    return np.memmap(path, dtype=_KIND, mode="r")


def _damaged(path: Path, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"the rows cannot be read: {what}",
        where=str(path),
        remedy=f"remove the folder {path.parent}; it is made again when it is needed",
    )
