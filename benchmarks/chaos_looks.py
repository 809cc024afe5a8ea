"""What can be seen of a run at work: its processes, its saves, and what was killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from chaos_commands import PATIENCE, Command
from modelwright.base.phases import Phase
from modelwright.launch.pulse import read_beat
from modelwright.runs import Run, read_events

LOOK, CLOSE_LOOK = 0.01, 0.002  # seconds between two
_DYING = 10.0


def await_true(
    condition: Callable[[], object], command: Command, limit: float | None = None, look: float = LOOK
) -> bool:
    """Wait until the condition holds, the command has ended, or ``limit`` seconds have passed (never mind which)."""
    end = time.monotonic() + (PATIENCE if limit is None else limit)
    while not condition() and command.code is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(look, left))
    if limit is None and time.monotonic() >= end:
        raise TimeoutError(f"the run does nothing any more; its output: {command.said}")
    return bool(condition())


def watched(sight: Callable[[], int | None], ended: Callable[[], bool]) -> Iterator[float]:
    """Seconds that each thing stays in sight."""
    seen, since = None, 0.0
    while not ended():
        now, present = time.monotonic(), sight()
        if present != seen and seen is not None:
            yield now - since
        if present != seen:
            seen, since = present, now
        time.sleep(CLOSE_LOOK)


def is_finished(run: Run) -> bool:
    return (run.path / "run.json").exists() and run.record.status == "finished"


def attempts(run: Run) -> int:
    """How often the workers of a run were started."""
    log = run.logs / "rank-0.txt"
    return log.read_text().count("--- attempt ") if log.exists() else 0


def living(run: Run) -> list[int]:
    """Process ids of the present world's workers, once all of them are there."""
    plan = run.plan() if run.plan_path.exists() else None
    logs = [run.logs / f"rank-{rank}.txt" for rank in range(plan.workers if plan else 0)]
    pids = [newest_pid(log) for log in logs]
    return [pid for pid in pids if pid] if all(map(is_worker, pids, logs)) else []


def newest_pid(log: Path) -> int | None:
    pids = re.findall(r"^--- attempt .*, pid (\d+)$", log.read_text(), re.MULTILINE) if log.exists() else []
    return int(pids[-1]) if pids else None


def is_worker(pid: int | None, log: Path) -> bool:
    """Whether a process lives and writes to this log: its number may have gone to another."""
    try:
        return pid is not None and lives(pid) and Path(f"/proc/{pid}/fd/1").readlink() == log.resolve()
    except OSError:
        return False


def lives(pid: int) -> bool:
    """Whether a process is there, and is no mere entry that waits to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def slay(pid: int) -> bool:
    """Kill a process; whether it lived."""
    if not lives(pid):  # numbers of no process mean whole groups
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def died(run: Run, command: Command, struck: Sequence[int], since: float) -> bool:
    """Whether those that were struck have died of it, by what those say who waited for them."""
    end = time.monotonic() + _DYING
    while any(map(lives, struck)) and time.monotonic() < end:
        time.sleep(CLOSE_LOOK)
    if any(map(lives, struck)):
        return False
    if command.pid in struck:
        command.wait()
        return command.code == -signal.SIGKILL and not is_finished(run)
    told = await_true(lambda: loss_told(run, since), command)
    return told or "SIGKILL" in (run.record.error or {}).get("what", "")


def loss_told(run: Run, since: float) -> bool:
    """Whether an elastic run has told that it lost workers by our signal."""
    lost = [event for event in read_events(run.events_path) if event.kind == "worker-lost"]
    killed = [event for event in lost if event.details.get("signal") == "SIGKILL"]
    return any(datetime.fromisoformat(event.time).timestamp() >= since - 0.001 for event in killed)


def save_under_way(run: Run, since: float) -> int | None:
    """The step of the checkpoint that is being taken or written, if any.

    Its half-written folder says so, or before that the sign of life of the worker that writes. What a kill left
    half-written before ``since`` does not count; and after its last save a worker still stands in that phase.
    """
    parts = [path for path in run.checkpoints.glob(".step-*.part") if changed(path) > since]
    if parts:
        return int(parts[0].name.removeprefix(".step-").partition(".")[0])
    beat = read_beat(run.logs, 0)
    if beat is None or beat.phase is not Phase.SAVE or (run.checkpoints / f"step-{beat.step:08d}").exists():
        return None
    return beat.step


def changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has just become whole
        return float("-inf")
