"""How commands are started: forked from a process that has imported everything, or each in a fresh interpreter.

Either way a command is a process of its own, in a session of its own, and starts its workers as it always does. A
forked one forks the parent of its workers as well, where a fresh one begins that with another interpreter; all of it
else is the product's own code. So a trial takes seconds less, and what is tried is the same.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol
from unittest.mock import patch

PATIENCE = 300.0
_IMPORTED = (
    "chaos_commands",
    "modelwright.app.train",
    "modelwright.app.resume",
    "modelwright.app.worker",
    "modelwright.app.probe",
    "modelwright.cli",
    "modelwright.data.mixture.mixture",
    "modelwright.data.sklearn_sets",
    "modelwright.data.texts.text_records",
    "modelwright.models.gpt",
    "modelwright.models.mlp",
    "modelwright.objectives.classification",
    "modelwright.objectives.next_token",
    "modelwright.optim.adamw",
    "modelwright.optim.averages.ema",
    "modelwright.parallel.precisions.full",
    "plotly.graph_objects",
    "torch._dynamo",
)


class Command(Protocol):
    """A command under way.

    Attributes:
        pid: its process.
        said: the file that its output goes to.
    """

    pid: int
    said: Path

    @property
    def code(self) -> int | None:
        """How it ended, less than 0 after a signal; ``None`` while it runs."""

    def wait(self) -> None:
        """Return when it has ended."""


Begin = Callable[[Sequence[str], Path], Command]


class Fresh:
    """``python -m modelwright`` with these arguments; its output goes to the file ``said``."""

    def __init__(self, arguments: Sequence[str], said: Path) -> None:
        self.said = said
        with said.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modelwright", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def wait(self) -> None:
        self._process.wait(PATIENCE)


class Forked:
    """The same, forked from a process that this one starts once."""

    def __init__(self, arguments: Sequence[str], said: Path) -> None:
        self.said = said
        where = (dict(os.environ), str(Path.cwd()), str(said))
        self._process = _context().Process(target=obey, args=(list(arguments), *where), name="modelwright")
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self) -> None:
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            raise TimeoutError(f"the command does not end; its output: {self.said}")


def _context() -> Any:
    """Everything is imported with one thread, as in the parent of workers: forking stays safe."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    with patch.dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


def obey(arguments: list[str], environment: Mapping[str, str], folder: str, said: str) -> None:
    """Be the command."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv[:] = ["modelwright", *arguments]
    from modelwright.cli import main
    from modelwright.launch import warm

    gc.freeze()
    known = {"DEVNULL": subprocess.DEVNULL, "TimeoutExpired": subprocess.TimeoutExpired}
    with patch.object(warm, "subprocess", SimpleNamespace(Popen=WarmParent, **known)):
        main()


class WarmParent:
    """``subprocess.Popen`` for the one thing that a command starts with it before there are workers: their parent."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: Any,
        stderr: Any,
        pass_fds: Sequence[int],
        start_new_session: bool,
    ) -> None:
        assert list(command[1:3]) == ["-m", "modelwright.launch.parent"] and start_new_session
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_parent(command[3:], env, stdout.fileno(), pass_fds[0])

    def wait(self, timeout: float | None = None) -> int:
        """How it ended.

        Raises:
            TimeoutExpired: not yet.
        """
        end = time.monotonic() + (PATIENCE if timeout is None else timeout)
        while self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("modelwright.launch.parent", timeout or PATIENCE)
            else:
                time.sleep(0.002)
        return self._code

    def kill(self) -> None:
        """Kill it, if it is still there."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


def _be_parent(arguments: Sequence[str], environment: Mapping[str, str], output: int, control: int) -> NoReturn:
    """What is left after an exec: the control channel, the output, the environment. It never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for begin, end in ((3, control), (control + 1, os.sysconf("SC_OPEN_MAX"))):
            os.closerange(begin, end)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = ["modelwright.launch.parent", *arguments]
        from modelwright.launch import parent

        code = parent.main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
