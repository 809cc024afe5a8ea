"""Folders that are finished or not there, however many processes make them and whenever one is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelwright.base.files import make_folder, speaking


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make ``folder`` by calling ``build`` on a temporary one beside it, unless it is there; returns it.

    Processes that ask at once wait for the first. One that was killed leaves a temporary folder, which the
    next removes.

    Raises:
        ModelwrightError: no permission or a full disk.
    """
    if folder.is_dir():
        return folder
    make_folder(folder.parent)
    with _locked(folder.with_name(f".{folder.name}.lock")) as alone:
        if folder.is_dir():
            return folder
        if alone:
            _remove_leftovers(folder)
        _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        make_folder(temporary)
        build(temporary)
        with speaking(folder):
            _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, where locks do not work
            raise


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields False where the file system has none."""
    with speaking(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True
