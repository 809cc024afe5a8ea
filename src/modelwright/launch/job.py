"""What a started job tells: running, finished, stopped; or failed, and then which rank and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Protocol, Self

from modelwright.base.errors import ModelwrightError, RunFailed

_HINTS = {
    "SIGKILL": "probably by the out-of-memory killer or by hand",
    "SIGTERM": "it was asked to leave by somebody else",
    "SIGSEGV": "a crash in native code",
    "SIGBUS": "probably a full /dev/shm or a file that was cut short while mapped",
    "SIGABRT": "native code gave up",
    "SIGILL": "native code was built for another processor",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The rank that failed first; what the others died of is a consequence and not told.

    Attributes:
        rank: which one.
        exit_code: what it left with; ``None`` where a signal ended it.
        signal: name of the signal that ended it, such as ``SIGKILL``.
        last_lines: the end of its log.
        error: fields of the :class:`ModelwrightError` it raised, if it did.
        exception: any other exception in one line, if there was one.
        log: its log file.
        lost: the ranks that a signal from elsewhere ended; none where an exception came first: it would come again.
        step: the furthest step that any rank had begun; 0 where none had.
    """

    rank: int
    exit_code: int | None
    signal: str | None
    last_lines: tuple[str, ...]
    error: dict[str, Any] | None
    exception: str | None
    log: Path
    lost: tuple[int, ...] = ()
    step: int = 0

    @property
    def what(self) -> str:
        """What happened, in one sentence."""
        if self.error:
            return str(self.error["what"])
        if self.exception:
            return f"rank {self.rank} failed: {self.exception}"
        if self.signal:
            hint = _HINTS.get(self.signal)
            return f"rank {self.rank} was killed by {self.signal}" + (f" ({hint})" if hint else "")
        return f"rank {self.rank} left with exit code {self.exit_code}"


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Where a job stands.

    Attributes:
        state: ``running``; ``finished`` (every rank left with 0); ``stopped`` (ranks died of the signals that
            ``terminate`` or ``kill`` sent, none of anything else); ``failed``.
        failure: what happened, where ``failed``.
    """

    state: Literal["running", "finished", "stopped", "failed"]
    failure: Failure | None = None


class Job(Protocol):
    """The ranks of one start. It advances only inside ``poll`` and ``wait``: there are no threads behind it.

    As a context manager it leaves no process behind: at the end, ranks that still run are asked to leave and
    killed after the placement's grace.
    """

    @property
    def pids(self) -> Sequence[int | None]:
        """Process ids by rank; ``None`` for a rank that has not begun."""
        ...

    def poll(self) -> JobStatus:
        """The state now. Once a rank has failed, the others are asked to leave, then killed."""
        ...

    def wait(self, timeout: float | None = None) -> JobStatus:
        """The state when it has ended, or after ``timeout`` seconds."""
        ...

    def stacks(self, timeout: float = 2.0) -> list[str]:
        """The Python stacks of every thread, by rank; ``""`` for a rank that has gone or does not answer."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM to every rank: they save and leave, in their own time."""
        ...

    def kill(self) -> None:
        """End every rank, and what it has started, at once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def raise_failure(failure: Failure) -> NoReturn:
    """Raise what a rank died of.

    Raises:
        ModelwrightError: the rank raised one; it is raised again with its words.
        RunFailed: anything else, with the rank, the reason and the last lines of its log.
    """
    if failure.error:
        raise _restored(failure)
    lines = "\n".join(f"  | {line}" for line in failure.last_lines)
    raise RunFailed(
        f"{failure.what}\n{lines}" if lines else failure.what,
        where=f"rank {failure.rank}, log: {failure.log}",
    )


def _restored(failure: Failure) -> ModelwrightError:
    error = failure.error or {}
    kind = RunFailed if error.get("exit_code") == RunFailed.exit_code else ModelwrightError
    where = error.get("where") or f"rank {failure.rank}, log: {failure.log}"
    return kind(error["what"], where=where, remedy=error.get("remedy", ""))
