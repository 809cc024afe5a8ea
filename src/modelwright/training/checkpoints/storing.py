"""A store that checkpoints are copied to; what talks to it is imported only where one is wished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, cast

from modelwright.base.choice import import_path
from modelwright.runs.weights import find_damage, list_checkpoints, step_of
from modelwright.training.checkpoints.keeping import MANIFEST


class CheckpointStore(Protocol):
    """Checkpoints of one run somewhere else. Each method raises a ModelwrightError where it cannot be reached."""

    def where(self, name: str = "") -> str:
        """The address of a checkpoint, or of all."""
        ...

    def check(self) -> None:
        """Find out now whether it can be written to."""
        ...

    def names(self) -> list[str]:
        """Of the checkpoints that are there, whole or not, newest first."""
        ...

    def has(self, path: Path) -> bool:
        """Whether this very checkpoint is there, whole; not only one of its name."""
        ...

    def mark(self) -> dict[str, Any]:
        """Whose checkpoints they are, as it was written there; empty where nothing was."""
        ...

    def set_mark(self, mark: Mapping[str, Any]) -> None:
        """Write down whose checkpoints they are."""
        ...

    def upload(self, path: Path) -> None:
        """Copy a checkpoint: its data first, its manifest last, so that a half copied one is recognised."""
        ...

    def keep(self, newest: str, keep: int, keep_best: int) -> Sequence[str]:
        """Remove all but the newest and the best, as on the disk; the names of those removed."""
        ...

    def download(self, name: str, folder: Path) -> str | None:
        """Copy a checkpoint into ``folder``, complete or not at all; what is wrong with it, or ``None``."""
        ...


def missing(store: CheckpointStore, folder: Path, step: int) -> list[Path]:
    """The whole checkpoints in ``folder``, up to that step, that came after the last one the store has; oldest first.

    Earlier ones it lacks as they were dropped there.
    """
    here = [path for path in list_checkpoints(folder) if step_of(path.name) <= step and (path / MANIFEST).exists()]
    late = list(takewhile(lambda path: not store.has(path), here))
    return [path for path in reversed(late) if find_damage(path) is None]


def open_store(url: str, folder: Path) -> CheckpointStore:
    """The store of the checkpoints that lie in ``folder`` of a run: ``URL/RUN/checkpoints``.

    Raises:
        ModelwrightError: no such kind of store.
        MissingExtra: what talks to it is not installed.
    """
    here = folder.absolute()
    store = import_path("modelwright.training.checkpoints.remote:RemoteStore")
    base = url if url.endswith("://") else url.rstrip("/")
    return cast(CheckpointStore, store(f"{base}/{here.parent.name}/{here.name}"))
