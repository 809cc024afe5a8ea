"""Who reads: the thread, until the training waits for it so long that processes pay."""

from __future__ import annotations

import math
import os
import threading
import time

import torch

from modelwright.base.detect import cores
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.data.reading.ahead import Here
from modelwright.data.reading.readers import Readers
from modelwright.data.reading.share import Loaded, Share

_STEPS, _SECONDS = 8, 2.0  # Of what is judged at once, at least.
_WAITING = 0.2  # Part of the time.
_WORTH = 20.0  # Seconds of waiting that are ahead: to start a process takes some, and a core.


class Judged:
    """Steps read here; by processes from where on it pays.

    That is where the training waits for a good part of its time, much of it is still to come and there are spare cores.
    Processes start beside: until they are ready, reading goes on here.

    Args:
        share: what to read.
    """

    def __init__(self, share: Share) -> None:
        self._share, self._here = share, Here(share)
        self._readers: Readers | None = None
        self._starting: threading.Thread | None = None
        self._ready = self._closed = False
        self._window = _Window(0.0)

    def read(self, number: int, waited: float) -> Loaded:
        """Step ``number``.

        Raises:
            ModelwrightError: it could not be read.
        """
        if self._ready and self._readers is not None:
            return self._readers.read(number, waited)
        before = time.perf_counter()
        loaded = self._here.read(number, waited)
        self._window.note(time.perf_counter() - before)
        if self._starting is None and self._window.whole:
            self._judge(number, waited)
        return loaded

    def close(self) -> None:
        """End the processes, if there are any."""
        self._closed = True
        if self._readers is not None:
            self._readers.close()
        if self._starting is not None:
            self._starting.join()

    def _judge(self, number: int, waited: float) -> None:
        window, self._window = self._window, _Window(waited)
        count = window.readers(waited, self._share.steps - number - 1, spare_cores(self._share.pin))
        if count == 0 or self._closed:
            return
        part = window.part(waited)
        emit(
            "loader-workers",
            f"training waits for data {part:.0%} of its time: {count} processes start to read, beside the thread",
            workers=count,
            waiting=part,
        )
        self._readers = Readers(self._share, count)
        self._starting = threading.Thread(target=self._start, args=(self._readers,), daemon=True)
        self._starting.start()
        if self._closed:  # meanwhile
            self._readers.close()

    def _start(self, readers: Readers) -> None:
        try:
            readers.start()
            self._ready = True
        except Exception as error:
            readers.close()
            if not self._closed:
                what = error.what if isinstance(error, ModelwrightError) else f"{type(error).__name__}: {error}"
                emit("loader-workers-refused", f"the thread goes on reading: {what}", level="warning")


class _Window:
    """Some steps that the thread read."""

    def __init__(self, waited: float) -> None:
        self._begun, self._waited_before = time.perf_counter(), waited
        self._steps, self._reading = 0, 0.0

    def note(self, seconds: float) -> None:
        self._steps += 1
        self._reading += seconds

    @property
    def whole(self) -> bool:
        return self._steps >= _STEPS and time.perf_counter() - self._begun >= _SECONDS

    def part(self, waited: float) -> float:
        return (waited - self._waited_before) / (time.perf_counter() - self._begun)

    def readers(self, waited: float, left: int, spare: int) -> int:
        """How many processes would pay for ``left`` more steps; 0 where none does."""
        elapsed, waiting = time.perf_counter() - self._begun, waited - self._waited_before
        if waiting < _WAITING * elapsed or waiting / self._steps * left < _WORTH:
            return 0
        computing = max(elapsed - waiting, 1e-3)
        return max(0, min(spare, math.ceil(self._reading / computing)))


def spare_cores(device: bool) -> int:
    """Cores that the ranks of this machine leave idle.

    Args:
        device: whether an accelerator computes; a rank then takes one core, else as many as torch has threads.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    mine = cores() // max(1, int(ranks) if ranks.isdecimal() else 1)
    return max(0, mine - (1 if device else torch.get_num_threads()))
