"""What users bring to a recipe, sound and unsound."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs


class Slow(Linear):
    def __init__(self, features: int, classes: int, seconds: float = 0.05) -> None:
        super().__init__(features, classes)
        self.seconds = seconds
        sys.stdout.write("a slow model is made\n")

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.seconds)
        return super().forward(inputs)


class WrongShape(Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).unsqueeze(1)


class FailsForward(Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs[:, :3])


class FailsAtBirth(Linear):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        raise ValueError("the width is odd")


class FailsInTraining(Linear):
    """Nothing that could be found before the first step."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("the cat sat on it")
        return super().forward(inputs)


class NotAModule:
    """Fits nowhere."""


class BrokenDataset:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        raise KeyError("audio")


def without_targets() -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(64), torch.tensor(-100)) for _ in range(50)]


def endless() -> list[tuple[Tensor, Tensor]]:
    Path("reading").touch()
    time.sleep(600)
    return []


def empty() -> list[tuple[Tensor, Tensor]]:
    return []


class Normed(Linear):
    """Its statistics differ between workers."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(self.norm(inputs))


def log_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """A loss of one's own, written so that autocast would compute it in bfloat16."""
    likelihood = torch.log_softmax(model(batch["inputs"]), dim=-1)
    return -likelihood.gather(1, batch["targets"].unsqueeze(1)).squeeze(1)


def mean_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return log_loss(model, batch).mean()
