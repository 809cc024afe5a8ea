"""A model of a user's that hangs on one rank."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn


class Hangs(nn.Module):
    """At its fourth batch in training, rank 1 sleeps."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.seconds = seconds
        self.batches = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches += self.training
        if self.batches == 4 and os.environ.get("RANK") == "1":
            time.sleep(self.seconds)
        outputs: Tensor = self.layer(inputs)
        return outputs


def samples() -> list[tuple[Tensor, Tensor]]:
    return [(torch.full((8,), float(number)), torch.tensor(number % 3)) for number in range(40)]
