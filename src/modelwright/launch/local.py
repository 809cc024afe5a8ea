"""Ranks on this machine, forked from a warm parent or begun afresh by it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import make_folder
from modelwright.launch.environment import rank_environments
from modelwright.launch.failure import Death, describe
from modelwright.launch.job import JobStatus
from modelwright.launch.logs import log_path, read_report, report_path
from modelwright.launch.placement import Placement
from modelwright.launch.pulse import clear, ranks_in, stack_path
from modelwright.launch.warm import Exit, Warm, import_path

# A rank that only tells of a lost peer waits this long for the one that was lost to be heard of.
_VICTIM_SECONDS = 1.0
_LAST_SECONDS = 5.0
_STACK_SECONDS = 0.05


def start(
    entry: str,
    arguments: Sequence[str],
    placement: Placement,
    *,
    environment: Mapping[str, str] | None = None,
    logs: Path,
    attempt: int = 0,
    warm: Warm | None = None,
) -> LocalJob:
    """Start the ranks of a job.

    Args:
        entry: ``package.module`` (its ``main`` is called) or ``package.module:function``; it receives the
            list of ``arguments``.
        arguments: strings, the same for every rank.
        placement: how many ranks, with how many threads.
        environment: additions to this process's environment.
        logs: folder for ``rank-K.txt`` (appended to) and ``rank-K.error.json``.
        attempt: how often this job was started before.
        warm: a parent to fork from; without one the job makes its own, which imports the entry's module.

    Raises:
        ModelwrightError: the entry cannot be one, the port is taken, the logs cannot be written.
        RunFailed: the warm parent has died.
    """
    _check(entry)
    logs = logs.absolute()
    make_folder(logs)
    environments = rank_environments(placement, environment=environment, logs=logs, attempt=attempt)
    for rank in ranks_in(logs):
        clear(logs, rank)  # of a sitting whose command was killed
    parent = warm or Warm([entry.partition(":")[0]] if placement.start == "fork" else [])
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    children = []
    for rank, variables in enumerate(environments):
        report_path(logs, rank).unlink(missing_ok=True)
        stack_path(logs, rank).unlink(missing_ok=True)
        header = f"--- attempt {attempt}, {when}, rank {rank} of {placement.workers}"
        children.append(
            parent.begin(
                entry=entry,
                arguments=[str(argument) for argument in arguments],
                environment=variables,
                folder=str(Path.cwd()),
                path=import_path(),
                log=str(log_path(logs, rank)),
                header=header,
                fresh=placement.start == "spawn",
            )
        )
    return LocalJob(parent, children, placement, logs, owned=warm is None)


class LocalJob:
    """The ranks of one start on this machine; see :class:`modelwright.launch.job.Job`."""

    def __init__(self, warm: Warm, children: list[int], placement: Placement, logs: Path, *, owned: bool) -> None:
        self._warm = warm
        self._children = children
        self._placement = placement
        self._logs = logs
        self._owned = owned
        self._sent: dict[int, dict[int, float]] = {child: {} for child in children}  # signal -> when
        self._ending: float | None = None  # when the others were asked to leave, after a failure
        self._end: JobStatus | None = None

    @property
    def pids(self) -> list[int | None]:
        """Process ids by rank; ``None`` for a rank that has not begun."""
        return [self._warm.pids.get(child) for child in self._children]

    def poll(self) -> JobStatus:
        """The state now."""
        return self._advance(0.0)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """The state when the job has ended, or after ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.1 if end is None else min(0.1, end - time.monotonic())
            status = self._advance(max(left, 0.0))
            if status.state != "running" or left <= 0:
                return status

    def stacks(self, timeout: float = 2.0) -> list[str]:
        """The Python stacks of every thread, by rank; ``""`` for a rank that has gone or does not answer."""
        paths = [stack_path(self._logs, rank) for rank in range(len(self._children))]
        before = [_size(path) for path in paths]
        asked = [rank for rank, child in enumerate(self._children) if self._can_answer(child, before[rank])]
        for rank in asked:
            self._warm.signal(self._children[rank], signal.SIGUSR1)
        end = time.monotonic() + timeout
        sizes: list[int] = []
        while time.monotonic() < end and not _complete(before, sizes, asked, paths):
            sizes = [_size(path) for path in paths]
            self._warm.pump(_STACK_SECONDS)
        return [_read_from(path, start) for path, start in zip(paths, before, strict=True)]

    def terminate(self) -> None:
        """Ask every rank to save and leave."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End every rank at once."""
        self._send(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.poll().state == "running":
                self.terminate()
                self.wait(self._placement.grace)
        finally:
            self._leave_nothing()

    def _leave_nothing(self) -> None:
        if self._end is None:
            self.kill()
            self.wait(_LAST_SECONDS)
        self._close()

    def _advance(self, timeout: float) -> JobStatus:
        if self._end is not None:
            return self._end
        self._warm.pump(timeout)
        exits = self._warm.exits
        failed = [death for rank, child in enumerate(self._children) if (death := self._failed(rank, child))]
        if any(child not in exits for child in self._children):
            if failed:
                self._end_others(failed)
            return JobStatus(state="running")
        if failed:
            self._end = JobStatus(state="failed", failure=describe(failed, self._logs))
        else:
            unhurt = all(exits[child].code == 0 for child in self._children)
            self._end = JobStatus(state="finished" if unhurt else "stopped")
        self._close()
        return self._end

    def _failed(self, rank: int, child: int) -> Death | None:
        end = self._warm.exits.get(child)
        if end is None or end.code == 0 or _obeyed(end, self._sent[child]):
            return None
        return Death(rank=rank, exit=end, report=read_report(self._logs, rank))

    def _end_others(self, failed: list[Death]) -> None:
        now = time.monotonic()
        patience = _VICTIM_SECONDS if all(death.victim for death in failed) else 0.0
        if self._ending is None and now >= min(death.exit.at for death in failed) + patience:
            self._ending = now
            self._send(signal.SIGTERM)
        if self._ending is not None and now >= self._ending + self._placement.grace:
            self._send(signal.SIGKILL)

    def _can_answer(self, child: int, size: int) -> bool:
        """A rank that has not opened its file has no handler yet: the signal would end it."""
        return child in self._warm.pids and child not in self._warm.exits and size >= 0

    def _send(self, number: int) -> None:
        for child in self._children:
            if child not in self._warm.exits and number not in self._sent[child]:
                self._sent[child][number] = time.monotonic()
                self._warm.signal(child, number)

    def _close(self) -> None:
        for rank in range(len(self._children)):
            clear(self._logs, rank)
        if self._owned:
            self._owned = False
            self._warm.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _complete(before: Sequence[int], seen: Sequence[int], asked: Sequence[int], paths: Sequence[Path]) -> bool:
    """Whether every rank that was asked has answered, and writes no more."""
    return bool(seen) and all(seen[rank] > before[rank] and seen[rank] == _size(paths[rank]) for rank in asked)


def _read_from(path: Path, start: int) -> str:
    try:
        return path.read_bytes()[max(start, 0) :].decode(errors="replace")
    except OSError:
        return ""


def _obeyed(end: Exit, sent: Mapping[int, float]) -> bool:
    """Whether a rank ended by a signal that we had sent it; one that was dead by then had another reason."""
    number = signal.SIGTERM if end.code == 128 + signal.SIGTERM else end.signal
    return number is not None and sent.get(number, math.inf) <= end.at


def _check(entry: str) -> None:
    module, _, function = entry.partition(":")
    names = [*module.split("."), *(function.split(".") if ":" in entry else [])]
    if module == "__main__":
        raise ModelwrightError(
            "a script cannot be started again in other processes",
            where=entry,
            remedy="put the function into a module of its own: package.module:function",
        )
    if not all(name.isidentifier() for name in names):
        raise ModelwrightError(f"'{entry}' is not an entry", remedy="write package.module or package.module:function")
