"""What this process is doing: the loop names each phase as it begins; whoever wants to know watches.

A mark costs well under a microsecond where nobody watches, and says nothing to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class Phase(IntEnum):
    """The parts of a training, as they follow each other."""

    STARTING = 0
    DATA = 1
    FORWARD = 2
    BACKWARD = 3
    EXCHANGE = 4
    OPTIMIZER = 5
    BETWEEN = 6
    EVALUATE = 7
    SAVE = 8
    ENDED = 9

    @property
    def word(self) -> str:
        """The name in messages and files."""
        return self.name.lower()


Watcher = Callable[[Phase, int | None], None]

_watchers: tuple[Watcher, ...] = ()


def enter(phase: Phase, step: int | None = None) -> None:
    """Say that ``phase`` begins now, and the one before it ends.

    Args:
        phase: what begins.
        step: number of the step that begins (1 for the first of the run); ``None``: still the same.
    """
    for watcher in _watchers:
        watcher(phase, step)


def watch(watcher: Watcher) -> None:
    """Tell ``watcher`` of every phase from now on."""
    global _watchers
    _watchers = (*_watchers, watcher)


def unwatch(watcher: Watcher) -> None:
    """Tell it no more."""
    global _watchers
    _watchers = tuple(other for other in _watchers if other is not watcher)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of every phase that begins inside the block."""
    watch(watcher)
    try:
        yield
    finally:
        unwatch(watcher)
