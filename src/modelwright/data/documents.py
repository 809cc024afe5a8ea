"""Documents: named files, read one by one, and split by file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelwright.base.errors import ModelwrightError


class Files:
    """Files under stable names, in the order of their names.

    Args:
        files: pairs of name and path; names decide the split, so they must not depend on the machine.
    """

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
