"""Accuracy."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from modelwright.objectives.fields import check_logits, class_targets, valid
from modelwright.objectives.metrics.ratio import Ratio


class Accuracy(Ratio):
    """The share of valid ``targets`` that are the likeliest class."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Tensor, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, ..., classes]``."""
        targets = class_targets(batch, "targets", "metric accuracy")
        check_logits(outputs, targets, "metric accuracy")
        # An ignored target, -100, is never the likeliest class.
        self._add((outputs.argmax(dim=-1) == targets).sum().double(), valid(targets))
