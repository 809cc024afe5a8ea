"""Metrics of a run: rows appended to ``metrics.jsonl``, read whole or followed while they are written.

Rows of training: ``{"kind": "step", "step": n, "loss": ..., "loss/TERM": ..., "learning_rate": ...,
"gradient_norm": ..., "samples": cumulative, "tokens": cumulative, "time": seconds since 1970, "seconds": elapsed
training seconds,
"step_seconds": ..., "memory_bytes": ..., "masked": bool}`` and ``{"kind": "evaluation", "step": n,
"seconds": ..., METRIC: value, ..., "part": "held-out" or "held-out-part"}``; of gradient norms by module ``{"kind":
"gradients", "step": n, "gradient_norm/MODULE": value, ...}``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import replacing, speaking
from modelwright.runs import jsonlines
from modelwright.runs.plain import number

Row = dict[str, Any]


class MetricsWriter:
    """Adds rows to a metrics file; they reach the file within ``flush_seconds``, and all of them on close.

    A file that a killed process left with a torn last line is mended when it is opened.

    Raises:
        ModelwrightError: the file cannot be written (from the constructor, :meth:`write` or :meth:`close`).
    """

    def __init__(self, path: Path, *, flush_seconds: float = 1.0) -> None:
        _mend(path)
        self._file = jsonlines.Appender(path)
        self._flush_seconds = flush_seconds
        self._rows: list[Row] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._flushed = time.monotonic()
        self._failure: ModelwrightError | None = None

    def write(self, row: Row) -> None:
        """Add one row, which is not to be changed afterwards; NaN and infinities are kept as words, to be floats again.

        It is put into words with all others when they are written: that takes a third of the time.
        """
        with self._lock:
            self._raise_failure()
            self._rows.append(row)
            if time.monotonic() - self._flushed >= self._flush_seconds:
                self._flush()
            elif self._timer is None:
                self._timer = threading.Timer(self._flush_seconds, self._flush_later)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with self._lock:
            self._raise_failure()
            self._flush()

    def close(self) -> None:
        """Flush and close; closing twice is harmless."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            try:
                self._raise_failure()
                self._flush()
            finally:
                self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._rows:
            self._file.append(b"".join(map(jsonlines.encode, self._rows)))
            self._rows.clear()

    def _flush_later(self) -> None:
        with self._lock:
            self._timer = None
            try:
                self._flush()
            except ModelwrightError as error:
                self._failure = error
            except ValueError:
                return  # closed in the meantime, and flushed by that

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def read_metrics(path: Path, since: int = 0) -> list[Row]:
    """The rows whose ``step`` is at least ``since``, in order of writing; rows without a step too.

    A torn last line is not read; a file that does not exist yet has no rows.
    """
    return [restored for row in jsonlines.read(path) if (restored := _restore(row)).get("step", since) >= since]


def follow(path: Path) -> jsonlines.Follower[Row]:
    """A reader of the rows that arrive from now on, those already there first."""
    return jsonlines.Follower(path, _restore)


def truncate_after(path: Path, step: int) -> int:
    """Drop the rows after ``step``, atomically, and return how many were dropped.

    A resumed run goes on from a checkpoint's step and writes those rows again.

    Raises:
        ModelwrightError: the file cannot be written.
    """
    if not path.exists():
        return 0
    dropped = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for row in jsonlines.read(path):
            if row.get("step", step) <= step:
                file.write(jsonlines.encode(row))
            else:
                dropped += 1
    return dropped


def steps(rows: list[Row]) -> Iterator[Row]:
    """The rows of training steps."""
    return (row for row in rows if row.get("kind") == "step")


def evaluations(rows: list[Row]) -> Iterator[Row]:
    """The rows of evaluations."""
    return (row for row in rows if row.get("kind") == "evaluation")


def _restore(row: Row) -> Row:
    return {key: number(value) for key, value in row.items()}


def _mend(path: Path) -> None:
    if not path.exists():
        return
    with speaking(path):
        torn = path.stat().st_size - (whole := jsonlines.whole_size(path))
        if torn:
            os.truncate(path, whole)
            emit(
                "line-torn",
                f"the last line of {path.name} was torn by a kill and is cut off",
                path=str(path),
                bytes=torn,
            )
