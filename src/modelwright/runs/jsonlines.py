"""Files of one JSON object per line that survive a kill: whole lines count, a torn last line does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from modelwright.base.events import emit
from modelwright.base.files import speaking
from modelwright.runs.plain import plain

_BLOCK = 65536
_ENCODER = json.JSONEncoder(allow_nan=False)  # json.dumps would make a new one for each row
T = TypeVar("T")


def encode(row: dict[str, Any]) -> bytes:
    """One row as a line."""
    try:
        text = _ENCODER.encode(row)
    except (ValueError, TypeError):
        text = json.dumps(plain(row), allow_nan=False)
    return text.encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The row of a line; ``None`` where the line holds no JSON object."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the complete lines; damaged lines are left out and counted in one event."""
    damaged = 0
    for line in _complete_lines(path):
        row = decode(line)
        if row is not None:
            yield row
        elif line.strip():
            damaged += 1
    if damaged:
        emit(
            "lines-unreadable",
            f"{damaged} damaged lines of {path.name} were left out",
            level="warning",
            path=str(path),
            lines=damaged,
        )


def whole_size(path: Path) -> int:
    """Bytes up to and including the last line feed: what is left without a torn last line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


class Follower(Generic[T]):
    """Reads a file while another process writes it: each time only what has been added.

    Args:
        path: the file; it need not be there yet.
        convert: what to make of each row.

    Attributes:
        rewritten: how often the file was replaced by another (a resumed run drops the steps it will do
            again); after each time :meth:`poll` gives all rows anew.
    """

    def __init__(self, path: Path, convert: Callable[[dict[str, Any]], T]) -> None:
        self.path = path
        self.rewritten = 0
        self._convert = convert
        self._inode = 0
        self._offset = 0

    def poll(self) -> list[T]:
        """What the complete lines written since the last call hold; waits for nothing."""
        try:
            with self.path.open("rb") as file:
                self._notice_rewriting(os.fstat(file.fileno()))
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return []
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(fresh)
        return [self._convert(row) for line in fresh.splitlines() if (row := decode(line)) is not None]

    def _notice_rewriting(self, status: os.stat_result) -> None:
        replaced = self._inode not in (0, status.st_ino) or status.st_size < self._offset
        if replaced:
            self.rewritten += 1
            self._offset = 0
        self._inode = status.st_ino


class Appender:
    """A file to which whole lines are added; a refused write leaves no half line behind.

    Raises:
        ModelwrightError: no permission, disk full, no such folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with speaking(path):
            self._file = path.open("ab", buffering=0)

    def append(self, lines: bytes) -> None:
        """Add ``lines`` in one write where the system allows."""
        with speaking(self.path):
            before = os.fstat(self._file.fileno()).st_size
            try:
                self._write(lines)
            except OSError:
                with suppress(OSError):  # the first refusal is the one to tell
                    os.ftruncate(self._file.fileno(), before)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[self._file.write(rest) :]


def _complete_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return
