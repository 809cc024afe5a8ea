"""spawn: start, wait, raise. For a script that wants a function to run in several processes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modelwright.base.errors import RunFailed
from modelwright.launch.job import Job, raise_failure
from modelwright.launch.local import start
from modelwright.launch.logs import log_path
from modelwright.launch.placement import Placement

_LOOK_SECONDS = 0.2


def spawn(
    entry: str,
    *,
    workers: int = 2,
    arguments: Sequence[str] = (),
    threads: int | None = None,
    logs: Path | None = None,
) -> None:
    """Run ``entry`` in ``workers`` processes of this machine and wait; rank 0's output is repeated here.

    Args:
        entry: ``package.module:function``, found from this process's import path; it receives ``arguments``.
        workers: how many processes; each finds the others with ``with modelwright.world() as mesh``.
        arguments: strings, the same for every rank.
        threads: CPU threads of each; the machine's cores are shared out where it is ``None``.
        logs: folder for the ranks' output; a temporary one, removed when all went well, where it is ``None``.

    Raises:
        ModelwrightError: a rank raised it, or the entry cannot be started.
        RunFailed: a rank failed in another way; its last lines are in the message.
    """
    placement = Placement(workers=workers, threads=threads or max(1, _cores() // workers))
    if logs is not None:
        _run(entry, arguments, placement, logs)
        return
    folder = Path(tempfile.mkdtemp(prefix="modelwright-"))
    _run(entry, arguments, placement, folder)
    shutil.rmtree(folder, ignore_errors=True)


def _run(entry: str, arguments: Sequence[str], placement: Placement, logs: Path) -> None:
    output = log_path(logs, 0)
    said = output.stat().st_size if output.exists() else 0
    with start(entry, arguments, placement, logs=logs) as job:
        said = _follow(job, output, said)
        _echo(output, said)
        status = job.poll()
    if status.failure:
        raise_failure(status.failure)
    if status.state == "stopped":
        raise RunFailed("the processes were stopped", where=str(logs))


def _follow(job: Job, output: Path, said: int) -> int:
    while job.wait(_LOOK_SECONDS).state == "running":
        said = _echo(output, said)
    return said


def _echo(output: Path, said: int) -> int:
    """Repeat what was written to ``output`` since byte ``said``, whole lines without our headers."""
    if not output.exists():
        return said
    with output.open("rb") as file:
        file.seek(said)
        lines = file.read()
    whole = lines[: lines.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines(keepends=True):
        if not line.startswith("--- attempt "):
            sys.stdout.write(line)
    sys.stdout.flush()
    return said + len(whole)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
