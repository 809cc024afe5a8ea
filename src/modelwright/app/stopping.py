"""Signals that ask for a stop: the step in hand is finished, the state saved, and only then do we leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class CutShort(KeyboardInterrupt):
    """A second signal: leave at once.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequest:
    """Whether a stop was asked for, and by which signal."""

    signal: int | None = None

    def __call__(self) -> bool:
        """Whether to stop before the next step."""
        return self.signal is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one is noted, the second ends the process."""
        if self.signal is not None:
            raise CutShort(number)
        self.signal = number


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM ends the process as Ctrl-C does: what the block began is tidied up on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Within the block SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it.

    Outside the main thread, where Python allows no handlers, nothing is ever noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.hear) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
