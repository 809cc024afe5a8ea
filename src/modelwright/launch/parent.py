"""The warm parent: a process that has only imported, and forks ranks on request.

``python -m modelwright.launch.parent DESCRIPTOR WISHES``, started by :class:`~modelwright.launch.Warm`. It
is one thread and runs no tensor operation: a fork after a thread pool has started would hang in the child.
When its command goes, in whatever way, it kills the ranks and leaves.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modelwright.launch import rank
from modelwright.launch.channel import Channel
from modelwright.launch.request import Request

_SECONDS_BETWEEN_LOOKS = 1.0
_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform.startswith("linux")
_LIBC = ctypes.CDLL(None) if _LINUX else None


class Parent:
    """Forks, signals and reaps; one loop over the control channel and the deaths of children."""

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._command = os.getppid()
        self._children: dict[int, int] = {}  # id -> pid

    def serve(self) -> Request | None:
        """Serve until the command goes: ``None``. In each forked child: return its request, at once."""
        with _deaths() as deaths:
            while os.getppid() == self._command:
                watched = [self._control.fileno(), deaths.fileno()]
                ready, _, _ = select.select(watched, [], [], _SECONDS_BETWEEN_LOOKS)
                if deaths.fileno() in ready:
                    deaths.recv(4096)
                self._reap()
                if self._control.fileno() not in ready:
                    continue
                messages = self._control.receive()
                if messages is None:
                    break
                for message in messages:
                    if request := self._obey(message):
                        return request
        self._kill_all()
        return None

    def _obey(self, message: dict[str, Any]) -> Request | None:
        if message["do"] == "signal":
            self._signal(message["id"], message["signal"])
            return None
        if message["do"] == "import":
            _preload(self._control, message["modules"])
            return None
        request = Request(**message["request"])
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.close()
            become(request, parent)
            return request
        with suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(pid, pid)
        self._children[request.id] = pid
        self._control.send({"started": request.id, "pid": pid})
        return None

    def _signal(self, child: int, number: int) -> None:
        pid = self._children.get(child)
        if pid is None:
            return
        with suppress(OSError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    def _reap(self) -> None:
        for child, pid in list(self._children.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            at = time.monotonic()
            with suppress(OSError):  # what the rank has started; the dead leader keeps the number ours
                os.killpg(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            del self._children[child]
            fate = {"code": None, "signal": -status} if status < 0 else {"code": status, "signal": None}
            self._control.send({"exit": child, "at": at, **fate})

    def _kill_all(self) -> None:
        for pid in self._children.values():
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self._children.values():
            os.waitpid(pid, 0)


def become(request: Request, parent: int) -> None:
    """Turn a fresh fork into a rank: own group, own log, own environment; dies with its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(OSError):
        os.setpgid(0, 0)
    _die_with(parent)
    _redirect(request.log)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.stdout.write(f"{request.header}, pid {os.getpid()}\n")
    if request.fresh:
        sys.stdout.flush()
        _start_afresh(request)
    sys.path[:] = request.path
    sys.argv[:] = [request.entry, *request.arguments]


def _start_afresh(request: Request) -> None:
    # The package may have come from the caller's import path rather than from the interpreter's.
    home = str(Path(__file__).parents[2])
    known = request.environment.get("PYTHONPATH")
    environment = {
        **request.environment,
        "PYTHONPATH": os.pathsep.join([home, known]) if known else home,
        "MODELWRIGHT_PATH": os.pathsep.join(request.path),
    }
    command = [sys.executable, "-m", "modelwright.launch.rank", request.entry, *request.arguments]
    os.execve(sys.executable, command, environment)


def _die_with(parent: int) -> None:
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGKILL)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    rank.by_lines()


@contextmanager
def _deaths() -> Iterator[socket.socket]:
    """A socket that becomes readable when a child dies."""
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        yield near
        signal.set_wakeup_fd(-1)


def _preload(control: Channel, modules: list[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # the rank will say so in its own log
            control.send({"unloaded": module, "error": f"{type(error).__name__}: {error}"})
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    gc.collect()
    gc.freeze()  # pages of what is imported stay shared with the children


def main() -> int:
    """Import, say so, serve."""
    control = Channel(socket.socket(fileno=int(sys.argv[1])))
    wishes = json.loads(sys.argv[2])
    sys.path[:] = wishes["path"]
    _preload(control, wishes["preload"])
    control.send({"ready": os.getpid()})
    sys.stdout.flush()
    request = Parent(control).serve()
    if request:
        rank.leave(rank.run(request.entry, request.arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
