"""The lock of a run: whoever advances a run holds it, and it vanishes with the process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import speaking

_NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRYING_SECONDS = 0.1
_held: set[int] = set()


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of the run in ``path``; processes that are started or forked meanwhile do not hold it.

    On file systems without locks an event says so, and the block runs all the same. Whether a lock keeps out other
    machines is up to the file system; see :mod:`modelwright.runs.fence`.

    Args:
        path: of the run.
        patience: seconds to wait for another process to let go of it.

    Raises:
        ModelwrightError: another process holds it, or the run cannot be written to.
    """
    with speaking(path):
        descriptor = os.open(path / _NAME, os.O_RDWR | os.O_CREAT, 0o644)  # closed on exec
    _held.add(descriptor)
    try:
        if not _taken_within(patience, descriptor, path):
            raise ModelwrightError(
                f"the run '{path.absolute().name}' is still at work in another process",
                where=str(path),
                remedy="wait for it, or stop it with Ctrl-C where it runs",
            )
        yield
    finally:
        if descriptor in _held:  # a fork has let go of it
            _held.discard(descriptor)
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of the run in ``path``."""
    try:
        descriptor = os.open(path / _NAME, os.O_RDWR)
    except OSError:
        return False  # nobody has ever held it, or it is another user's
    try:
        return not _taken(descriptor, path)
    finally:
        os.close(descriptor)


def _taken_within(patience: float, descriptor: int, path: Path) -> bool:
    end = time.monotonic() + patience
    while not (taken := _taken(descriptor, path)) and time.monotonic() < end:
        time.sleep(_TRYING_SECONDS)
    return taken


def _taken(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        emit("run-not-locked", f"no locks on this file system: keep others from {path} yourself", level="warning")
    return True


def _let_go() -> None:
    """A fork shares the lock: its copies of the descriptors are closed, so that it cannot outlive the holder."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
