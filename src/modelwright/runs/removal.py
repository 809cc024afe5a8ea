"""Removing a run: hidden first, deleted after, so that a kill leaves no half run in sight."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import speaking
from modelwright.runs.directory import Run, named
from modelwright.runs.lock import is_locked

_HIDDEN = ".removed-"


def remove(run: Run, *, force: bool = False) -> None:
    """Delete a run's directory, and what killed removals left in its folder.

    Raises:
        ModelwrightError: a process works on it (``force`` removes it all the same), or it cannot be deleted.
    """
    if not force and (run.status() == "running" or is_locked(run.path)):
        raise ModelwrightError(
            f"the run '{run.name}' is running",
            where=str(run.path),
            remedy="stop it first (Ctrl-C where it runs), or remove it all the same with --force",
        )
    path = named(run.path)
    hidden = path.with_name(f"{_HIDDEN}{path.name}-{secrets.token_hex(4)}")
    with speaking(path):
        path.rename(hidden)
        for leftover in hidden.parent.glob(f"{_HIDDEN}*"):
            _delete(leftover)


def _delete(path: Path) -> None:
    if path.is_symlink():
        path.unlink()  # the run lies elsewhere and stays there
        return
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return  # another removal was faster
