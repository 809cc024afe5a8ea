"""Documents: named files, or rows of files, read one by one, and split by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.data.tables.records import placed


class Texts(Protocol):
    """Named texts that can be read again and again, in one order."""

    unit: str
    """What one is called, in messages: ``files``."""

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of name and content, read when their turn comes."""
        ...

    def only(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Those of ``names``, in the same order."""
        ...

    @property
    def shown(self) -> str:
        """Where they come from, for messages."""
        ...


class Files:
    """Files under stable names, in the order of their names.

    Args:
        files: pairs of name and path; names decide the split, so they must not depend on the machine.
    """

    unit = "files"

    def __init__(self, files: Sequence[tuple[str, Path]]) -> None:
        self.files = sorted(files)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of name and content, read when their turn comes.

        Raises:
            ModelwrightError: a file cannot be read.
        """
        for name, path in self.files:
            yield name, _content(path)

    def only(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The files of ``names``."""
        return iter(Files([file for file in self.files if file[0] in names]))

    @property
    def shown(self) -> str:
        """The first files, for messages."""
        return ", ".join(str(path) for _, path in self.files[:3])


class RowTexts:
    """One column of the rows of files; a row is named ``FILE:LINE``, from ``root``.

    Args:
        paths: files that :func:`modelwright.data.tables.records.placed` reads.
        column: holds a text in every row.
        root: the folder that names start from.
    """

    unit = "rows"

    def __init__(self, paths: Sequence[Path], column: str, root: Path) -> None:
        self._paths, self._column, self._prefix = paths, column, f"{root}/"

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of name and text in UTF-8; a missing text is empty.

        Raises:
            ModelwrightError: a row cannot be read, or holds something else in the column.
        """
        for path in self._paths:
            for place, row in placed(path):
                yield place.removeprefix(self._prefix), self._text(row, place)

    def only(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The rows of ``names``; the others are read too, and dropped."""
        return (row for row in self if row[0] in names)

    @property
    def shown(self) -> str:
        """The first files, for messages."""
        return ", ".join(map(str, self._paths[:3]))

    def _text(self, row: dict[str, Any], place: str) -> bytes:
        if self._column not in row:
            raise ModelwrightError(
                f"there is no column '{self._column}'", where=place, remedy=f"text: {nearest(self._column, row)}"
            )
        text = row[self._column]
        if text is not None and not isinstance(text, str):
            raise ModelwrightError(
                f"column '{self._column}' holds a {type(text).__name__}, not a text",
                where=place,
                remedy="mend the row, or name another column in text",
            )
        return (text or "").encode("utf-8", "surrogatepass")


def held_out_names(names: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """Names of the documents to judge by: about ``fraction`` of all.

    Each name is decided by its own keyed hash, so more files leave the others where they are. Of two or more
    documents at least one is held out and one is not; ``fraction`` 0 holds out none.
    """
    if fraction == 0 or len(names) < 2:
        return frozenset()
    places = sorted((_place(name, seed), name) for name in names)
    below = sum(place < fraction for place, _ in places)
    count = min(max(1, below), len(places) - 1)
    return frozenset(name for _, name in places[:count])


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed only."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelwrightError(
            f"the file cannot be read: {error.strerror or error}",
            where=str(path),
            remedy="give read permission, or leave it out",
        ) from error
