"""A run that ends early says so in its record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.runs import Run
from modelwright.runs.fence import TakenOver


@contextmanager
def failing(run: Run, *, writes: bool = True) -> Iterator[None]:
    """Note in the run's record, where ``writes``, what ends the block early; and let it go on."""
    try:
        yield
    except TakenOver:  # the record is the other world's
        raise
    except BaseException as error:
        if writes:
            _note(run, error)
        raise


def _note(run: Run, error: BaseException) -> None:
    try:
        _write(run, error)
    except ModelwrightError as unwritten:  # a full disk, most often: it must not hide what came first
        emit("failure-not-noted", f"the run's record could not be written: {unwritten.what}", level="warning")


def _write(run: Run, error: BaseException) -> None:
    if isinstance(error, ModelwrightError):
        run.update(status="failed", error=error)
    elif isinstance(error, KeyboardInterrupt):
        run.update(status="stopped")
    else:
        run.update(status="failed", error=ModelwrightError(f"{type(error).__name__}: {error}"))
