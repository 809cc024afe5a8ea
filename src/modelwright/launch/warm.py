"""Warm: the command's side of a warm parent, from which ranks are forked in milliseconds."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelwright.base.errors import RunFailed
from modelwright.base.events import emit
from modelwright.launch.channel import Channel
from modelwright.launch.request import Request

_CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Exit:
    """How a rank ended: an exit code or a signal's number; ``at`` is on the machine's monotonic clock."""

    code: int | None
    signal: int | None
    at: float


class Warm:
    """A process that imports ``preload`` in the background, at once, and from which many jobs can start.

    It lives in a session of its own: a terminal's Ctrl-C reaches the command alone. It ends, and kills its
    ranks, when it is closed or when the command is gone. Not for use from several threads.

    Args:
        preload: modules to import. One that fails is told as an event; ranks then import it themselves.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        near, far = socket.socketpair()
        self._control = Channel(near)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the parent
        wishes = json.dumps({"preload": list(preload), "path": import_path()})
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modelwright.launch.parent", str(far.fileno()), wishes],
                env=_parent_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        self._ready = self._gone = False
        self._imported = set(preload)
        self._queue: list[Request] = []
        self._living: set[int] = set()
        self._next = 0
        self.pids: dict[int, int] = {}
        self.exits: dict[int, Exit] = {}

    @property
    def pid(self) -> int:
        """Process id of the parent."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether everything is imported, as far as known: ``pump`` hears of it."""
        return self._ready

    def also(self, modules: Iterable[str]) -> None:
        """Have further modules imported before the next rank begins: once here, not once in each rank.

        They must be fit for a fork: start no threads when they are imported.
        """
        fresh = sorted(set(modules) - self._imported)
        self._imported.update(fresh)
        if fresh:
            self._control.send({"do": "import", "modules": fresh})

    def begin(self, **fields: Any) -> int:
        """Begin a rank, now or as soon as everything is imported; returns its number.

        Raises:
            RunFailed: the parent has died.
        """
        self.pump()
        if self._gone:
            raise RunFailed(f"the process that starts workers has died\n{self._last_words()}")
        self._next += 1
        request = Request(id=self._next, **fields)
        if self._ready:
            self._send(request)
        else:
            self._queue.append(request)
        return request.id

    def signal(self, child: int, number: int) -> None:
        """Send a signal to a rank; SIGKILL also to what it has started. The dead do not mind."""
        waiting = [request for request in self._queue if request.id == child]
        if waiting:
            self._queue.remove(waiting[0])
            self.exits[child] = Exit(None, number, time.monotonic())
        elif child in self._living:
            self._control.send({"do": "signal", "id": child, "signal": int(number)})

    def pump(self, timeout: float = 0.0) -> None:
        """Hear what the parent says; waits up to ``timeout`` seconds for a first word."""
        while not self._gone and select.select([self._control], [], [], timeout)[0]:
            timeout = 0.0
            messages = self._control.receive()
            if messages is None:
                self._mourn()
                return
            for message in messages:
                self._hear(message)

    def wait_ready(self, timeout: float = 120.0) -> bool:
        """Wait until everything is imported; ``False`` where it took too long or the parent died."""
        end = time.monotonic() + timeout
        while not (self._ready or self._gone) and (left := end - time.monotonic()) > 0:
            self.pump(left)
        return self._ready and not self._gone

    def close(self) -> None:
        """End the parent and every rank that still runs."""
        self._control.close()
        self._gone = True
        if not self._ready:  # deep in an import, and without children
            self._process.kill()
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._bury()
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Request) -> None:
        self._living.add(request.id)
        self._control.send({"do": "fork", "request": asdict(request)})

    def _hear(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready = True
            for request in self._queue:
                self._send(request)
            self._queue.clear()
        elif "started" in message:
            self.pids[message["started"]] = message["pid"]
        elif "exit" in message:
            self._living.discard(message["exit"])
            self.exits[message["exit"]] = Exit(message["code"], message["signal"], message["at"])
        else:
            emit("preload-failed", f"{message['unloaded']}: {message['error']}", module=message["unloaded"])

    def _mourn(self) -> None:
        self._gone = True
        self._bury()
        emit("warm-parent-died", "the process that starts workers has died", level="error")

    def _bury(self) -> None:
        for child in [*self._living, *(request.id for request in self._queue)]:
            self.exits[child] = Exit(None, signal.SIGKILL, time.monotonic())
        self._living.clear()
        self._queue.clear()

    def _last_words(self) -> str:
        self._output.seek(0)
        return "\n".join(self._output.read().decode(errors="replace").splitlines()[-15:])


def import_path() -> list[str]:
    """The import path of this process, as places that mean the same in another one."""
    return [str(Path(entry or ".").absolute()) for entry in sys.path]


def _parent_environment() -> dict[str, str]:
    # One thread: even a module that computes while it is imported starts no pool, so that forking stays safe.
    home = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([home, known]) if known else home,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
