"""Commands forked from one process that has imported torch: a process each, without the seconds that importing takes.

Run as a module it is that process: at every request it forks a keeper, which forks the command, tells its process id,
waits for its end, and tells how it ended.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from select import select

PRELOAD = (
    "modelwright.app.train",
    "modelwright.app.resume",
    "modelwright.app.evaluate",
    "modelwright.app.generate",
    "modelwright.app.runs",
    "modelwright.app.doctor",
    "torch._dynamo",
    "rich.console",
    "typer",
)
"""Nothing that looks at its terminal when it is imported, as ``modelwright.cli`` does, nor any optional package."""


class Forked:
    """A command at work in a session of its own, shown as :class:`subprocess.Popen` shows a process.

    Args:
        arguments: of the command.
        code: Python that runs in its process first.
        terminal: file descriptor of a terminal that all its streams are connected to; by default it reads nothing.
    """

    def __init__(self, *arguments: str, code: str = "", terminal: int | None = None) -> None:
        self.returncode: int | None = None
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - until it is closed
        self._keeper, far = socket.socketpair()
        wish = {"arguments": arguments, "code": code, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        with far, Path(os.devnull).open("rb") as nothing:
            streams = [nothing.fileno(), self._out.fileno(), self._err.fileno()]
            socket.send_fds(_server(), [b"."], [far.fileno(), *([terminal] * 3 if terminal else streams)])
        self._keeper.sendall(json.dumps(wish).encode() + b"\n")
        self._told = self._keeper.makefile("rb")
        self.pid = int(self._told.readline())

    def said(self) -> tuple[str, str]:
        """Standard output and standard error, as far as they have come."""
        out, err = (os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace") for file in (self._out, self._err))
        return out, err

    def poll(self) -> int | None:
        """How it ended, if it has."""
        return self._hear(0.0)

    def communicate(self, timeout: float = 60.0) -> tuple[str, str]:
        """Wait for its end; what it said."""
        if self._hear(timeout) is None:
            raise subprocess.TimeoutExpired("modelwright", timeout, *self.said())
        return self.said()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, and forget what it said."""
        self.kill()
        self.communicate()
        for file in (self._told, self._keeper, self._out, self._err):
            file.close()

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _hear(self, timeout: float) -> int | None:
        if self.returncode is None and select([self._keeper], [], [], timeout)[0]:
            self.returncode = int(self._told.readline())
        return self.returncode


@cache
def _server() -> socket.socket:
    near, far = socket.socketpair()
    with far:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(far.fileno())],
            pass_fds=[far.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(process.wait)
    atexit.register(near.close)
    return near


def serve(control: socket.socket) -> None:
    """Fork commands for as long as whoever asks for them lives; returns in each of them, to be that command."""
    for module in PRELOAD:
        importlib.import_module(module)
    keepers: set[int] = set()
    while True:
        _, files, _, _ = socket.recv_fds(control, 1, 4)
        if not files:
            sys.exit()
        keepers -= {keeper for keeper in keepers if os.waitpid(keeper, os.WNOHANG)[0]}
        if (pid := os.fork()) == 0:
            control.close()
            keep(*files)
            return
        keepers.add(pid)
        for file in files:
            os.close(file)


def keep(asked: int, *streams: int) -> None:
    """Fork a command and tell of it; returns in the command."""
    asker = socket.socket(fileno=asked)
    with asker.makefile("rb") as request:
        wish = json.loads(request.readline())
    if (pid := os.fork()) == 0:
        asker.close()
        become(wish, *streams)
        return
    asker.sendall(b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        asker.sendall(b"%d\n" % code)
    os._exit(0)


def become(wish: dict[str, object], *streams: int) -> None:
    """Take on the place, the streams and the words of the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Of a shell's background job it is ignored.
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(wish["folder"]))
    os.environ.clear()
    os.environ.update(wish["environment"])  # type: ignore[call-overload]
    sys.argv = ["modelwright", *wish["arguments"]]  # type: ignore[misc]
    exec(str(wish["code"]), {})


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("modelwright", run_name="__main__")
