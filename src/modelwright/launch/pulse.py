"""Pulse: the last sign of life of a rank, in a few bytes that its launcher reads while the rank is stuck.

A rank that is started by :mod:`modelwright.launch` notes each phase in a small mapped file beside its log, and
registers a handler by which the launcher gets its Python stacks even when no Python code of it runs any more.
"""

from __future__ import annotations

import faulthandler
import mmap
import signal
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelwright.base import phases
from modelwright.base.events import emit
from modelwright.base.phases import Phase

_FORM = struct.Struct("<qqdq")  # step, phase, monotonic seconds, count of beats

_kept: list[IO[bytes]] = []  # the handler writes to the descriptor: its file must stay open


@dataclass(frozen=True)
class Beat:
    """What a rank last noted.

    Attributes:
        step: 0 before the first.
        phase: what it began to do.
        at: when, on the machine's monotonic clock.
        count: how many phases it has begun.
    """

    step: int
    phase: Phase
    at: float
    count: int


class Pulse:
    """Writes beats to a file; a watcher for :func:`modelwright.base.phases.watch`.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._step = self._count = 0
        with path.open("w+b") as file:
            file.write(bytes(_FORM.size))  # written, not only sized: a full disk would kill the rank later
            file.flush()
            self._memory = mmap.mmap(file.fileno(), _FORM.size)
        self(Phase.STARTING)

    def __call__(self, phase: Phase, step: int | None = None) -> None:
        """Note that ``phase`` begins."""
        if step is not None:
            self._step = step
        self._count += 1
        _FORM.pack_into(self._memory, 0, self._step, phase, time.monotonic(), self._count)


def pulse_path(logs: Path, rank: int) -> Path:
    """Where a rank notes its phases."""
    return logs / f"rank-{rank}.pulse"


def stack_path(logs: Path, rank: int) -> Path:
    """Where a rank's stacks come when it is asked for them."""
    return logs / f"rank-{rank}.stack"


def begin(logs: Path, rank: int) -> None:
    """Show signs of life from now to the end of this process."""
    try:
        pulse = Pulse(pulse_path(logs, rank))
        _answer(stack_path(logs, rank))
    except OSError as error:  # a full disk: the rank itself can go on
        emit("pulse-missing", f"rank {rank} cannot show signs of life: {error}", level="warning", rank=rank)
        return
    phases.watch(pulse)


def read_beat(logs: Path, rank: int) -> Beat | None:
    """The last beat of a rank; ``None`` before its first."""
    try:
        step, phase, at, count = _FORM.unpack(pulse_path(logs, rank).read_bytes())
        return Beat(step, Phase(phase), at, count) if count else None
    except (OSError, ValueError, struct.error):
        return None


def ranks_in(logs: Path) -> list[int]:
    """The ranks that show signs of life in a folder."""
    return sorted(int(path.stem.removeprefix("rank-")) for path in logs.glob("rank-*.pulse"))


def furthest_step(logs: Path) -> int:
    """The furthest step that a rank in a folder has begun; 0 where none has begun one."""
    beats = [read_beat(logs, rank) for rank in ranks_in(logs)]
    return max((beat.step for beat in beats if beat), default=0)


def clear(logs: Path, rank: int) -> None:
    """Take a rank's signs of life away; stacks that it was asked for stay, as part of its log."""
    with suppress(OSError):
        pulse_path(logs, rank).unlink(missing_ok=True)
    stacks = stack_path(logs, rank)
    with suppress(OSError):
        if stacks.stat().st_size == 0:
            stacks.unlink()


def _answer(path: Path) -> None:
    if not hasattr(faulthandler, "register"):  # Windows
        return
    unanswering = path.with_name(f"{path.name}.part")
    file = unanswering.open("wb", buffering=0)
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
    _kept.append(file)
    unanswering.rename(path)  # only now: before, the signal would have ended the process
