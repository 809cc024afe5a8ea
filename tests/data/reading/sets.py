"""Data sets that other processes can import."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, ClassVar

import numpy as np
import torch

from modelwright.data.order import Order

LENGTH = 41
ORDER = Order(LENGTH, seed=3)


class Images:
    """Says who read: tensors of many types, laid out in memory in several ways; some samples are not there."""

    decodes: ClassVar[bool] = True

    def __init__(self, broken: int | None = None, missing: frozenset[int] = frozenset(), seconds: float = 0.0) -> None:
        self.broken, self.missing, self.seconds = broken, missing, seconds

    def __len__(self) -> int:
        return LENGTH

    def present(self, indices: Any) -> Any:
        return np.array([index not in self.missing for index in indices.tolist()], dtype=bool)

    def __getitems__(self, positions: Any) -> Any:
        if self.broken in positions:
            raise ValueError("bad record")
        time.sleep(self.seconds * len(positions))
        numbers = torch.from_numpy(np.asarray(positions))
        images = numbers[:, None, None, None] + torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
        return {
            "inputs": images.to(memory_format=torch.channels_last),
            "numbers": numbers,
            "halves": numbers[:, None].expand(-1, 7).to(torch.bfloat16),
            "turned": images.double().transpose(1, 3),
            "odd": numbers % 2 == 1,
            "complex": numbers.to(torch.complex64),
            "nothing": torch.empty(len(numbers), 0),
            "process": torch.full((len(numbers),), os.getpid()),
        }


class Locked(Images):
    """Cannot be sent to another process."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(seconds=seconds)
        self.lock = threading.Lock()


class Holed:
    """An order of which every third position is a hole."""

    def __call__(self, positions: Any) -> Any:
        return np.where(np.asarray(positions) % 3 == 1, -1, ORDER(positions))
