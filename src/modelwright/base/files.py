"""Files that are either the old one or the new one, never a half: temporary name, flush, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space, or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another folder"),
    errno.EFBIG: ("the file would be too large here", "raise the limit (ulimit -f), or choose another folder"),
    errno.EACCES: ("there is no permission to write here", "choose a folder you may write to"),
    errno.EPERM: ("there is no permission to write here", "choose a folder you may write to"),
    errno.EROFS: ("the file system is read-only", "choose a folder you may write to"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder"),
    errno.ENOENT: ("the folder does not exist", "make it first, or choose another"),
}


@contextmanager
def speaking(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into errors that name ``path`` and a remedy."""
    try:
        yield
    except OSError as error:
        what, remedy = _REMEDIES.get(error.errno or 0, (error.strerror or str(error), ""))
        raise ModelwrightError(f"cannot write: {what}", where=str(error.filename or path), remedy=remedy) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, flush it and rename it to ``path``.

    Raises:
        ModelwrightError: disk full, no permission, no such folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with speaking(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # it may never have been there
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ModelwrightError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelwrightError("the file does not exist", where=str(path)) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelwrightError(
            f"the file is not JSON: {error}", where=str(path), remedy="restore it from a copy, or remove it"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        ModelwrightError: no permission, or a file stands in the way.
    """
    with speaking(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise ModelwrightError(
                "a file of that name stands in the way", where=str(path), remedy="choose another folder"
            ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
