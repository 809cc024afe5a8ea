"""A task in the background of this process: one at a time for each folder, and its failure is kept to be raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

_writing: dict[Path, threading.Thread] = {}


def await_writing(folder: Path) -> None:
    """Return once nothing in this process writes to ``folder``: an earlier training may have been left."""
    thread = _writing.get(folder.absolute())
    if thread is not None:
        thread.join()


class Background:
    """Runs tasks one after another in a thread, which the interpreter waits for at its end.

    Args:
        folder: that the tasks write to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the task is still running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, task: Callable[[], None]) -> None:
        """Run ``task``; nothing may be running."""
        await_writing(self._folder)
        self._thread = threading.Thread(target=self._run, args=(task,), name="modelwright-checkpoint", daemon=False)
        _writing[self._folder] = self._thread
        self._thread.start()

    def wait(self) -> float:
        """Return once nothing runs; the seconds that this took."""
        if self._thread is None:
            return 0.0
        begin = time.perf_counter()
        self._thread.join()
        if _writing.get(self._folder) is self._thread:
            del _writing[self._folder]
        self._thread = None
        return time.perf_counter() - begin

    def raise_failure(self) -> None:
        """Raise, once, what the last task failed with."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._failure = error
