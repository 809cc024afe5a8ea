"""A run that ends early says so in its record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.events import emit
from modelwright.runs import Run
from modelwright.runs.fence import TakenOver, held_elsewhere

_SHORT = re.compile("allocate memory|not enough memory|out of memory", re.IGNORECASE)


@contextmanager
def short_of_memory() -> Iterator[None]:
    """Say it in words that help where memory runs out inside the block.

    Raises:
        RunFailed: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _SHORT.search(str(error)):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunFailed(
            f"memory ran out: {said}",
            remedy="it would run out again: a smaller plan.micro_batch, plan.recompute=full, fewer workers on this "
            "machine, or a smaller model",
        ) from error


@contextmanager
def failing(run: Run, *, writes: bool = True) -> Iterator[None]:
    """Note in the run's record, where ``writes``, what ends the block early; and let it go on."""
    try:
        yield
    except TakenOver:  # the record is the other world's
        raise
    except BaseException as error:
        if writes and not held_elsewhere(run.path):
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
