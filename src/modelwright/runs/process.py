"""Which process works on a run, and whether it still lives."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_JOB = ("", "none")  # the latter where torchrun was given no --rdzv-id


def this_process() -> dict[str, Any]:
    """The running process, told apart from all others: machine, boot, number, start time; and its elastic job, if any.

    That is the name under which torch's elastic agents, on whatever machines, work together.
    """
    pid, job = os.getpid(), elastic_job()
    process = {"host": platform.node(), "boot": _boot(), "pid": pid, "started": _started(pid)}
    return process if job is None else process | {"job": job}


def elastic_job() -> str | None:
    """Name of the elastic job that this process works in; ``None`` where no agent has started it under a name."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return None if job in _NO_JOB else job


def of_this_job(process: Mapping[str, Any]) -> bool:
    """Whether a process worked in the elastic job that this one works in."""
    job = elastic_job()
    return job is not None and process.get("job") == job


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Whether the process lives; ``None`` where that cannot be seen from this machine."""
    if process.get("host") != platform.node():
        return None
    if process.get("boot") != _boot():
        return False
    pid = int(process.get("pid", 0))
    return _exists(pid) and _started(pid) == process.get("started")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is another user's
    return True


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks from boot to the process's start: a number that was given again is another process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
