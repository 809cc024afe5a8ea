"""What a quantization brought, before and after: counted, and measured on an example."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from torch import nn

from modelwright.compression.quantize.weights import EncodedWeight
from modelwright.compression.receipt import Receipt, count_bytes
from modelwright.models.modes import evaluating
from modelwright.reforms.moments import Forward, call

_REPEATS = 9
_SECONDS = 1.0


def receipt_of(before: nn.Module, after: nn.Module, example: Any = None, forward: Forward | None = None) -> Receipt:
    """Of two models with the same weights; encoded numbers count as parameters, packed ones with the bytes they take.

    Args:
        before: the model as it was given.
        after: with encoded weights.
        example: what both are timed on; without one they are not.
        forward: of ``(model, example)``, where an example is not simply the model's arguments.
    """
    return Receipt(
        step="quantize",
        parameters=(count_numbers(before), count_numbers(after)),
        bytes=(count_bytes(before), count_bytes(after)),
        milliseconds=None if example is None else milliseconds(before, after, example, forward),
    )


def count_numbers(model: nn.Module) -> int:
    """Parameters, and numbers of encoded weights, which are no parameters; tied ones count once."""
    encoded = [each for each in model.modules() if isinstance(each, EncodedWeight)]
    stored = [math.prod(each.shape) for each in encoded if not list(each.parameters())]
    return sum(each.numel() for each in model.parameters()) + sum(stored)


@torch.no_grad()
def milliseconds(
    before: nn.Module, after: nn.Module, example: Any, forward: Forward | None = None
) -> tuple[float, float]:
    """Medians of one forward pass of each, taken in turns, on the machine that this runs on."""
    taken: tuple[list[float], list[float]] = ([], [])
    with evaluating(before), evaluating(after):
        for each in (before, after):
            _once(each, example, forward)
        until = time.perf_counter() + _SECONDS
        while len(taken[0]) < _REPEATS and (len(taken[0]) < 1 or time.perf_counter() < until):
            for each, times in zip((before, after), taken, strict=True):
                times.append(_once(each, example, forward))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _once(model: nn.Module, example: Any, forward: Forward | None) -> float:
    start = time.perf_counter()
    (forward or call)(model, example)
    if any(each.device.type != "cpu" for each in model.buffers()):
        torch.accelerator.synchronize()
    return 1e3 * (time.perf_counter() - start)
