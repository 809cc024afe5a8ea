"""Readers: processes that read steps in turns, for data whose samples take computing to read.

They are fresh interpreters, neither forked nor started by ``multiprocessing``, and so not by torch's ``DataLoader``: a
fork of a rank inherits the sockets of its world (the other ranks would not notice when it is killed), the locks of its
threads and its CUDA context; and what ``multiprocessing`` starts afresh runs the user's script again, which begins
another training where the script has no guard.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.data.reading.sending import Gone, pickled, receive, receive_batch, send
from modelwright.data.reading.share import Loaded, Share

_HOME = str(Path(__file__).parents[3])


class Readers:
    """Processes that read the steps of a share: of ``count``, the first reads every ``count``-th step, and so on.

    Each holds at most one step that was not taken yet.

    Args:
        share: what to read; its data set must be such as can be pickled.
        count: how many processes.
    """

    def __init__(self, share: Share, count: int) -> None:
        self._share = share
        self._processes: list[_Process] = []
        try:
            for _ in range(count):
                self._processes.append(_Process())
        except OSError:
            self.close()
            raise
        self._begin: int | None = None

    def start(self) -> None:
        """Send them the share and wait until all have it.

        Raises:
            ModelwrightError: it cannot be sent, or a process ended.
        """
        share = pickled(self._share.bare())
        for process in self._processes:
            process.give(share)
        for process in self._processes:
            process.ready()

    def read(self, number: int, waited: float) -> Loaded:
        """Step ``number``; steps are asked for one after the other.

        Raises:
            ModelwrightError: reading it failed.
            RunFailed: its process was killed.
        """
        if self._begin is None:
            self._hand_out(number)
        assert self._begin is not None
        process = self._processes[(number - self._begin) % len(self._processes)]
        (loaded,) = process.taken(self._share, number)
        return loaded

    def _hand_out(self, number: int) -> None:
        if not all(process.started for process in self._processes):
            self.start()
        for turn, process in enumerate(self._processes):
            process.go(number + turn, len(self._processes))
        self._begin = number

    def close(self) -> None:
        """End them, whatever they do."""
        for process in self._processes:
            process.close()


class _Process:
    def __init__(self) -> None:
        near, far = os.pipe()
        self._output: BinaryIO = os.fdopen(near, "rb")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelwright.data.reading.reader", str(far)],
                stdin=subprocess.PIPE,
                pass_fds=[far],
                env=_environment(),
            )
        finally:
            os.close(far)
        assert self._process.stdin is not None
        self._input: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self.started = False

    def give(self, share: bytes) -> None:
        try:
            self._input.write(json.dumps(sys.path).encode() + b"\n" + share)
            self._input.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._ended("before it began") from error

    def ready(self) -> None:
        try:
            receive(self._output)
        except Gone:
            raise self._ended("before it began") from None
        self.started = True

    def go(self, first: int, stride: int) -> None:
        try:
            send(self._input, {"steps": [first, stride]})
        except Gone:
            raise self._ended("before it began") from None

    def taken(self, share: Share, number: int) -> list[Loaded]:
        try:
            indices, batch = receive_batch(self._output)
        except Gone:
            raise self._ended(share.place(number)) from None
        return share.cut([indices], batch)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output):
            with suppress(OSError):
                stream.close()

    def _ended(self, where: str) -> ModelwrightError:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return RunFailed(
            f"a process that reads data {how}",
            where=where,
            remedy="resume; where memory ran out, let fewer processes read (workers), or none (workers=0)",
        )


def _environment() -> dict[str, str]:
    """Ours, with one thread; the package may have come from the import path rather than from the interpreter's."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([_HOME, known] if known else [_HOME])}
