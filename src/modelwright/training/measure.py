"""Measure a plan: a few steps of the real loop, timed."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from modelwright.planning.search import Measurement
from modelwright.training.checkpoints.snapshot import snapshot_bytes
from modelwright.training.prepared import Prepared

WARM_UP = 1
SETTLED = 0.2  # Part of the time to measure after which slow steps end it.


def measure(prepared: Prepared, *, seconds: float = 1.0, at_least: int = 2, limit: float = math.inf) -> Measurement:
    """Time steps of a prepared training, whose weights are changed by it; a collective.

    Args:
        prepared: the training, laid out on this rank.
        seconds: how long to measure after the warm-up.
        at_least: steps to measure.
        limit: steps that take longer than this on average are reason to stop before the time is over.
    """
    prepared.state.total = 1_000_000_000
    period = math.lcm(*(update.every for update in prepared.updates))
    if period > 1:  # steps differ: only whole rounds of them tell what one takes, and a long one proves nothing
        at_least, limit = period * -(-at_least // period), math.inf
    watch = _enough(seconds, at_least, limit)
    training = prepared.steps(watch)
    taken = [_finished(step.step_seconds, prepared) for step in training][WARM_UP:]
    peaks = prepared.group.gather({"peak": peak_bytes(prepared.program.device), "steps": taken})
    slowest = [max(rank["steps"][number] for rank in peaks) for number in range(len(taken))]
    return Measurement(
        step_seconds=_usual(slowest, period),
        low=min(slowest),
        high=max(slowest),
        peak_bytes=max(rank["peak"] for rank in peaks),
        steps=len(slowest),
        snapshot_bytes=snapshot_bytes(prepared.state, prepared.weights),
    )


def _usual(seconds: Sequence[float], period: int) -> float:
    """The median step; where some updates act in some steps only, the mean of the median round, step by step."""
    return statistics.fmean(statistics.median(seconds[place::period]) for place in range(min(period, len(seconds))))


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the accelerator if there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _finished(step_seconds: float, prepared: Prepared) -> float:
    if prepared.program.device.type != "cuda":
        return step_seconds
    before = time.perf_counter()
    torch.cuda.synchronize(prepared.program.device)
    return step_seconds + time.perf_counter() - before


def _enough(seconds: float, at_least: int, limit: float) -> Callable[[], bool]:
    begun: list[float] = []

    def stop() -> bool:
        begun.append(time.perf_counter())
        measured = len(begun) - 1 - WARM_UP
        if measured < 1:
            return False
        spent = begun[-1] - begun[WARM_UP]
        # One slow step among short ones proves nothing: it may have read for many.
        slow = spent > SETTLED * seconds and spent / measured > limit
        return slow or (measured >= at_least and spent > seconds)

    return stop
