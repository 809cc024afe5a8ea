"""Where rows come from, and which of them are held out."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.files import file_hash
from modelwright.data.tables.records import find_files, kind_of, placed


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        where: its place, for messages, such as ``FILE:LINE``.
        values: column -> value.
    """

    where: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The text of a column.

        Raises:
            ModelwrightError: there is no such column, or it holds something else.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise ModelwrightError(
                f"'{column}' is {_shown(value)}, not a text",
                where=self.where,
                remedy="mend the record, or leave it out",
            )
        return value

    def value(self, column: str) -> Any:
        """What a column holds.

        Raises:
            ModelwrightError: there is no such column.
        """
        if column not in self.values:
            raise ModelwrightError(
                f"the record has no column '{column}'", where=self.where, remedy=nearest(column, self.values)
            )
        return self.values[column]


class Source(Protocol):
    """Rows that can be read again and again, alike each time."""

    @property
    def key(self) -> str:
        """Tells one content from another."""
        ...

    def rows(self) -> Iterator[Row]:
        """The rows, one by one."""
        ...


@dataclass(frozen=True)
class RecordFiles:
    """The records of files, one file after the other.

    Attributes:
        paths: files that :func:`modelwright.data.tables.records.placed` reads.
    """

    paths: tuple[Path, ...]

    @property
    def key(self) -> str:
        """A hash over the contents of the files and their kinds, which say how they are read; whatever their names."""
        told = " ".join(f"{kind_of(path)} {file_hash(path)}" for path in self.paths)
        return hashlib.sha256(told.encode()).hexdigest()

    def rows(self) -> Iterator[Row]:
        """The records in their order."""
        for path in self.paths:
            for where, values in placed(path):
                yield Row(where, values)


def record_files(files: Sequence[str], held_out_files: Sequence[str], root: str) -> dict[str, Source]:
    """The sources that patterns name: ``train``, and ``held_out`` where there are patterns for it.

    Raises:
        ModelwrightError: a pattern matches no file, or a file is learnt from and judged by.
    """
    found = {"train": find_files(files, "files", root)}
    if held_out_files:
        found["held_out"] = find_files(held_out_files, "held_out_files", root)
    if shared := set(found["train"]) & set(found.get("held_out", [])):
        raise ModelwrightError(
            f"{min(shared)} is among the files to learn from and those to judge by",
            where="held_out_files",
            remedy="name each file once",
        )
    return {part: RecordFiles(tuple(paths)) for part, paths in found.items()}


@dataclass(frozen=True)
class Made:
    """Rows made by a function, the same at each call.

    Attributes:
        key: tells one content from another.
        make: gives the rows.
    """

    key: str
    make: Callable[[], Iterable[Row]]

    def rows(self) -> Iterator[Row]:
        """The rows, made anew."""
        yield from self.make()


class Parts:
    """Rows to learn from and rows to judge by.

    Which rows are held out is decided by a hash of what identifies each, so more rows leave the others where they
    are and equal ones stay together. It takes 8 bytes of memory per row.

    Args:
        sources: ``train``, and ``held_out`` where that is given.
        fraction: part to hold out where no source is given for it.
        seed: chooses which.
        identity: what tells a row from another, such as its question without the answer.
    """

    def __init__(
        self, sources: Mapping[str, Source], fraction: float, seed: int, identity: Callable[[Row], object]
    ) -> None:
        self._sources = sources
        self._place = partial(_place, seed=seed, identity=identity)
        self._places: NDArray[np.uint64] | None = None
        self._learnt = np.empty(0, dtype=np.uint64)
        self._border = 0
        if "held_out" in sources:
            self._learnt = np.unique(self._all_places())
        elif fraction > 0:
            self._divide(fraction)

    @property
    def names(self) -> list[str]:
        """``train``, and ``held_out`` if there is such a part."""
        return ["train", "held_out"] if "held_out" in self._sources or self._border else ["train"]

    def rows(self, part: str) -> Iterator[Row]:
        """The rows of a part, in the order of their source."""
        if part in self._sources and self._places is None:
            yield from self._sources[part].rows()
            return
        assert self._places is not None
        for row, place in zip(self._sources["train"].rows(), self._places, strict=True):
            if (int(place) < self._border) == (part == "held_out"):
                yield row

    def learnt(self, row: Row) -> bool:
        """Whether a row of a source to judge by asks what a row to learn from asks."""
        place = np.uint64(self._place(row))
        found = np.searchsorted(self._learnt, place)
        return bool(found < len(self._learnt) and self._learnt[found] == place)

    def _all_places(self) -> NDArray[np.uint64]:
        places = array("Q", map(self._place, self._sources["train"].rows()))
        return np.frombuffer(places, dtype=np.uint64) if places else np.empty(0, dtype=np.uint64)

    def _divide(self, fraction: float) -> None:
        self._places = self._all_places()
        known = np.unique(self._places)
        if len(known) < 2:
            events.emit("nothing-held-out", "all rows are alike, so none are held out", level="warning")
            return
        wanted = int(fraction * 2**64)
        # Of two or more at least one is held out and one is not.
        self._border = min(max(wanted, int(known[0]) + 1), int(known[-1]))


def _place(row: Row, seed: int, identity: Callable[[Row], object]) -> int:
    told = json.dumps(identity(row), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{seed}\0{told}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def _shown(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
