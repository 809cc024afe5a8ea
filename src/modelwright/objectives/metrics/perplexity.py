"""Perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelwright.objectives.fields import check_logits, class_targets, cross_entropy_total, valid
from modelwright.objectives.metrics.ratio import Ratio


class Perplexity(Ratio):
    """``exp`` of the mean cross-entropy over valid ``targets``; infinite where that overflows."""

    @torch.no_grad()
    def update(self, outputs: Tensor, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, ..., classes]``."""
        self._add(*nats(outputs, batch, "metric perplexity"))

    def compute(self) -> float:
        """The perplexity; at least 1."""
        mean = super().compute()
        return math.exp(mean) if mean < 700 else math.inf


def nats(outputs: Tensor, batch: dict[str, Tensor], reader: str) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats, summed over the valid targets (float64), and their count."""
    targets = class_targets(batch, "targets", reader)
    check_logits(outputs, targets, reader)
    return cross_entropy_total(outputs, targets).double(), valid(targets)
