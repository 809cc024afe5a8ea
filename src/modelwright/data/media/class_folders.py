"""A folder for each class: which files there are, what they are called, and which are held out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash
from modelwright.base.units import bytes_text
from modelwright.data.manifest import HASHED_BYTES
from modelwright.data.texts.documents import held_out_names

_SHOWN = 10


@dataclass(frozen=True)
class Labelled:
    """A file and its class.

    Attributes:
        name: what it is called wherever the folder lies.
        path: where it lies.
        label: the name of its class.
    """

    name: str
    path: Path
    label: str


def class_files(root: Path, endings: Collection[str], field: str = "folder") -> list[Labelled]:
    """The files of ``root/CLASS/**``, in the order of their names; hidden ones are passed over.

    Args:
        root: holds a folder for each class.
        endings: such as ``.png``, in small letters; empty: any.
        field: of the configuration, for messages.

    Raises:
        ModelwrightError: there is no such folder, or no such file in it.
    """
    if not root.is_dir():
        raise ModelwrightError(
            f"there is no folder {root}", where=field, remedy="name its path from where the command starts"
        )
    names = sorted(_names(root))
    taken = [name for name in names if "/" in name and (not endings or Path(name).suffix.lower() in endings)]
    _tell_ignored(root, sorted(set(names) - set(taken)))
    if not taken:
        kinds = ", ".join(sorted(endings)) or "file"
        raise ModelwrightError(
            f"there is no {kinds} in the class folders of {root}", where=field, remedy=f"put files into {root}/CLASS/"
        )
    return [Labelled(name, root / name, name.partition("/")[0]) for name in taken]


def divided(files: Sequence[Labelled], fraction: float, seed: int) -> dict[str, list[Labelled]]:
    """Files to learn from and files to judge by: about ``fraction`` of each class, decided by a hash of each name."""
    by_class: dict[str, list[str]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file.name)
    held = {name for names in by_class.values() for name in held_out_names(names, fraction, seed)}
    parts = {
        "train": [file for file in files if file.name not in held],
        "held_out": [file for file in files if file.name in held],
    }
    return {part: chosen for part, chosen in parts.items() if chosen}


def classes_of(parts: dict[str, list[Labelled]], where: str) -> list[str]:
    """The names of the classes, in order; a class to judge by must be one to learn from.

    Raises:
        ModelwrightError: it is not.
    """
    names = {part: {file.label for file in files} for part, files in parts.items()}
    if strange := sorted(names.get("held_out", set()) - names["train"]):
        raise ModelwrightError(
            f"nothing is learnt of the class '{strange[0]}', which is judged by",
            where=where,
            remedy="give both folders the same classes",
        )
    return sorted(names["train"])


def files_key(parts: dict[str, list[Labelled]]) -> str:
    """Tells one content of files from another: their names and hashes; of more than 2 GiB their sizes and times."""
    files = [(part, file) for part, chosen in parts.items() for file in chosen]
    total = sum(file.path.stat().st_size for _, file in files)
    if total > HASHED_BYTES:
        events.emit(
            "files-not-hashed",
            f"{bytes_text(total)} of files are told apart by size and time of change; reading them all would take long",
            bytes=total,
        )
    told = [[part, file.name, file.label, _told(file.path, total <= HASHED_BYTES)] for part, file in files]
    return hashlib.sha256(json.dumps(told).encode("utf-8", "surrogateescape")).hexdigest()


def _told(path: Path, hashed: bool) -> str:
    return file_hash(path) if hashed else f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def _names(root: Path) -> Iterator[str]:
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in names if not name.startswith("."))


def _tell_ignored(root: Path, names: Sequence[str]) -> None:
    if names:
        events.emit(
            "files-ignored",
            f"{len(names)} files in {root} are of another kind, or in no class folder, such as {names[0]}",
            files=list(names[:_SHOWN]),
            count=len(names),
        )
