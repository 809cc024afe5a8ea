"""Whether a factored layer is faster than the whole one, on what it reads in the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modelwright.models.modes import evaluating
from modelwright.reforms.factors import factored
from modelwright.reforms.moments import Forward, call

_REPEATS = 9


def slower(
    model: nn.Module, ranks: Mapping[str, int | None], example: Any, *, forward: Forward | None = None
) -> dict[str, tuple[float, float]]:
    """The layers that would not be faster with factors of these ranks: milliseconds before and after, medians.

    Both are timed in turns on the layer's own input. Layers that do not run are not listed.
    """
    read = _inputs(model, [name for name, rank in ranks.items() if rank is not None], example, forward)
    found = {}
    for name, (args, kwargs) in read.items():
        old, rank = model.get_submodule(name), ranks[name]
        new = factored(old, rank=rank or 1)
        for each in new.parameters():
            nn.init.constant_(each, 0.01)  # what lies in new memory may be slow to compute with
        before, after = _milliseconds((old, new), args, kwargs)
        if after >= before:
            found[name] = (before, after)
    return found


def _inputs(model: nn.Module, names: list[str], example: Any, forward: Forward | None) -> dict[str, tuple[Any, Any]]:
    read: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, kwargs: read.setdefault(name, (args, kwargs)) and None

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True) for name in names]
    try:
        with evaluating(model), torch.no_grad():
            (forward or call)(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return read


@torch.no_grad()
def _milliseconds(modules: tuple[nn.Module, ...], args: Any, kwargs: Any) -> list[float]:
    taken: list[list[float]] = [[] for _ in modules]
    for _ in range(_REPEATS + 1):
        for module, times in zip(modules, taken, strict=True):
            start = time.perf_counter()
            module(*args, **kwargs)
            _wait(module)
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times[1:]) for times in taken]


def _wait(module: nn.Module) -> None:
    if next(module.parameters()).device.type != "cpu":
        torch.accelerator.synchronize()
