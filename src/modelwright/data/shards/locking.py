"""A lock upon a file, which ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from modelwright.base.files import speaking


class Lock:
    """A lock upon a file, made if need be; given back when it is closed, when nobody holds it, or with the process.

    Args:
        path: of the file.
        how: ``fcntl.LOCK_SH`` or ``LOCK_EX``; with ``LOCK_NB`` it does not wait.

    Raises:
        BlockingIOError: it does not wait, and others hold the lock.
    """

    def __init__(self, path: Path, how: int) -> None:
        with speaking(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, how)
        except BlockingIOError:
            self.close()
            raise

    def close(self) -> None:
        """Give it back."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> None:
        """It is held already."""

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # else its file could not be opened
            self.close()
