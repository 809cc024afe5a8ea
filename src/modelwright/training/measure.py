"""Measure a plan: a few steps of the real loop, timed."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from modelwright.planning.search import Measurement
from modelwright.training.steps import steps
from modelwright.training.training import Prepared

WARM_UP = 1


def measure(prepared: Prepared, *, seconds: float = 0.8, at_least: int = 3) -> Measurement:
    """Time steps of a prepared training, whose weights are changed by it; a collective.

    Args:
        prepared: the training, laid out on this rank.
        seconds: how long to measure after the warm-up.
        at_least: steps to measure in any case.
    """
    prepared.state.total = 1_000_000_000
    watch = _enough(seconds, at_least)
    training = steps(prepared.update, prepared.loader(), prepared.state, prepared.group, watch)
    taken = [_finished(step.step_seconds, prepared) for step in training][WARM_UP:]
    peaks = prepared.group.gather({"peak": peak_bytes(prepared.program.device), "steps": taken})
    slowest = [max(rank["steps"][number] for rank in peaks) for number in range(len(taken))]
    return Measurement(
        step_seconds=statistics.median(slowest),
        low=min(slowest),
        high=max(slowest),
        peak_bytes=max(rank["peak"] for rank in peaks),
        steps=len(slowest),
    )


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


def _enough(seconds: float, at_least: int) -> Callable[[], bool]:
    asked = 0
    begun = 0.0

    def stop() -> bool:
        nonlocal asked, begun
        if asked == WARM_UP:
            begun = time.perf_counter()
        asked += 1
        return asked > WARM_UP + at_least and time.perf_counter() - begun > seconds

    return stop
