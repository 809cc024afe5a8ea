"""Perplexity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modelwright.objectives.fields import class_targets, valid
from modelwright.objectives.metrics.ratio import Ratio
from modelwright.objectives.reading import cross_entropies


class Perplexity(Ratio):
    """``exp`` of the mean cross-entropy over valid ``targets``; infinite where that overflows."""

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, ..., classes]``, or features that stand for them."""
        self._add(*nats(outputs, batch, "metric perplexity"))

    def compute(self) -> float:
        """The perplexity; at least 1."""
        mean = super().compute()
        return math.exp(mean) if mean < 700 else math.inf


def nats(outputs: Any, batch: dict[str, Tensor], reader: str) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats, summed over the valid targets (float64), and their count."""
    targets = class_targets(batch, "targets", reader)
    return cross_entropies(outputs, targets, reader).sum(dtype=torch.float64), valid(targets)
