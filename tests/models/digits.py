"""A plain loop over scikit-learn's digits, to see whether a model of images learns."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64


def images() -> tuple[Tensor, Tensor]:
    """uint8 ``[1797, 1, 8, 8]`` from 0 to 255, and their classes."""
    pixels, targets = load_digits(return_X_y=True)
    return torch.tensor(pixels * 255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8), torch.tensor(targets)


def accuracy_after(model: nn.Module, *, epochs: int, lr: float) -> float:
    """The share of 360 held-out images that ``model`` gets right after ``epochs`` over the others."""
    inputs, targets = images()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:360], order[360:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    steps = epochs * (len(rest) // BATCH)
    for step in range(steps):
        place = step % (len(rest) // BATCH) * BATCH
        if place == 0:
            rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(step + 1))]
        optimizer.param_groups[0]["lr"] = lr * _factor(step, steps)
        chosen = rest[place : place + BATCH]
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(inputs[held_out]).argmax(1) == targets[held_out]).double().mean())


def _factor(step: int, steps: int) -> float:
    """Warm-up over a tenth, then a cosine."""
    return min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
