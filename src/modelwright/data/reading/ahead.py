"""Reading ahead: a thread that is up to two steps in front of whoever takes them."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Protocol

from modelwright.data.reading.share import Loaded, Share

AHEAD = 2  # Steps.


class Source(Protocol):
    """Where the thread gets its steps from, one after the other."""

    def read(self, number: int, waited: float) -> Loaded:
        """Step ``number``; the training has waited ``waited`` seconds for steps so far."""
        ...

    def close(self) -> None:
        """End what it has started, also while :meth:`read` is under way."""
        ...


class Here:
    """Steps read by the thread itself."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def read(self, number: int, waited: float) -> Loaded:
        """Read the step now."""
        (loaded,) = self._share.read(number)
        return loaded

    def close(self) -> None:
        """Nothing was started."""


class ReadAhead:
    """The thread behind one iteration. ``_free`` counts places in the queue, so nobody polls.

    Args:
        source: of steps; closed with the thread.
        begin, end: the first step, and the one after the last.
    """

    def __init__(self, source: Source, begin: int, end: int) -> None:
        self._source, self._begin, self._end = source, begin, end
        self._read: SimpleQueue[Loaded | Exception] = SimpleQueue()
        self._free = threading.Semaphore(AHEAD)
        self._closed, self._waited = False, 0.0
        self._thread = threading.Thread(target=self._run, name="modelwright-loader", daemon=True)
        self._thread.start()

    def next(self) -> Loaded:
        """The next step.

        Raises:
            ModelwrightError: it could not be read.
        """
        before = time.perf_counter()
        loaded = self._read.get()
        self._waited += time.perf_counter() - before
        self._free.release()
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    def close(self) -> None:
        """End the thread, and what it reads from."""
        self._closed = True
        self._free.release()
        self._source.close()
        self._thread.join()

    def _run(self) -> None:
        for number in range(self._begin, self._end):
            self._free.acquire()
            if self._closed:
                return
            try:
                self._read.put(self._source.read(number, self._waited))
            except Exception as error:
                self._read.put(error)
                return
