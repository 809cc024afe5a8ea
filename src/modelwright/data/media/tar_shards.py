"""Tar shards as webdataset writes them: members that share a name up to its first dot are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.data.media.members import decode
from modelwright.data.tables.records import Record, missing_or_refused, unreadable

_BLOCK = 2**20


@dataclass(frozen=True)
class Member:
    """Where a file of a shard lies: its data begins at byte ``offset`` of the shard."""

    name: str
    offset: int
    size: int


Sample = tuple[str, dict[str, Member]]


def samples(path: Path) -> Iterator[Sample]:
    """Pairs of a key (``folder/0001``) and its members by ending (``png``, ``seg.png``), in the order of the shard.

    Members whose name has no dot, and what is no plain file, are passed over.

    Raises:
        ModelwrightError: the shard is packed, damaged or cut short, or a sample has two members of one ending.
    """
    key, found = "", dict[str, Member]()
    for member in _members(path):
        here, ending = _split(member.name)
        if here != key and found:
            yield key, found
            found = {}
        if ending in found:
            raise ModelwrightError(
                f"sample '{here}' has two members '{ending}'", where=str(path), remedy="write the shard again"
            )
        key = here
        found[ending] = member
    if found:
        yield key, found


def read(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place (``FILE:KEY``) and a sample: ``__key__``, and its decoded members by ending.

    The values of a ``json`` object stand beside the members under their own names. Images stay bytes.

    Raises:
        ModelwrightError: as :func:`samples`; or a member cannot be decoded.
    """
    with _opened(path) as file:
        for key, members in samples(path):
            record: Record = {"__key__": key}
            for ending, member in members.items():
                value = decode(ending, data_of(file, member), f"{path}:{member.name}")
                record |= value if isinstance(value, Mapping) else {ending: value}
            yield f"{path}:{key}", record


def data_of(file: Any, member: Member) -> bytes:
    """The bytes of a member of an open shard."""
    file.seek(member.offset)
    return file.read(member.size)  # type: ignore[no-any-return]


def name_at(path: Path, offset: int) -> str:
    """The name of the member whose data begins at ``offset``, for messages."""
    return next((member.name for member in _members(path) if member.offset == offset), f"byte {offset}")


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _members(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as shard:
            while (info := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # they are kept otherwise, all of them
                if info.issparse():
                    raise unreadable(path, f"'{info.name}' is sparse", "write the shard again, without sparse files")
                if info.isreg() and _split(info.name)[1] and _split(info.name)[0].rpartition("/")[2]:
                    yield Member(info.name, info.offset_data, info.size)
            _check_end(path, shard.offset)
    except tarfile.ReadError as error:
        packed = "unpack it: packed shards cannot be read at random"
        raise unreadable(path, f"it is no tar, packed, or cut short ({error})", packed) from error
    except OSError as error:
        raise missing_or_refused(path, error) from error


def _check_end(path: Path, offset: int) -> None:
    """A header that makes no sense ends a tar in silence; only zeros may follow a true end."""
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            if block.strip(b"\0"):
                raise unreadable(path, f"it is damaged after byte {offset}")


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise missing_or_refused(path, error) from error
