"""Steps as a sampling draws them, and judges of how random they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.data import Sampling

Indices = NDArray[np.int64]


class Numbers:
    """A data set of its own indices, of any length: reads nothing."""

    alike = True

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, positions: Any) -> Any:
        return {"inputs": torch.as_tensor(positions)}


def drawn(sampling: Sampling, length: int, *, batch: int, steps: int, first: int = 0, seed: int = 11) -> Indices:
    """Indices of ``steps`` steps from the ``first`` on, ``[steps, positions]``."""
    dataset = Numbers(length)
    width = sampling.positions(dataset, batch=batch)
    order = sampling.order(dataset, batch=batch, seed=seed)
    return order(np.arange(first * width, (first + steps) * width)).reshape(steps, width)


def members(steps: Indices, length: int) -> NDArray[np.bool_]:
    """Which sample is in which step, ``[steps, length]``."""
    table = np.zeros((len(steps), length + 1), dtype=bool)
    np.put_along_axis(table, steps, True, axis=1)
    return table[:, :length]  # holes, -1, fell on the last column


def surprise(counts: Mapping[Any, int], expected: Mapping[Any, float]) -> float:
    """Chi-square of ``counts``, in standard deviations from what chance gives; what cannot be is infinite."""
    if set(counts) - set(expected):
        return math.inf
    chi = sum((counts.get(each, 0) - mean) ** 2 / mean for each, mean in expected.items())
    freedom = len(expected) - 1
    return (chi - freedom) / math.sqrt(2 * freedom)


def tally(rows: NDArray[Any]) -> Counter[tuple[Any, ...]]:
    """How often each row is there."""
    return Counter(map(tuple, rows.tolist()))
