"""Mean squared error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modelwright.objectives.calling import logits_of
from modelwright.objectives.fields import field, same_shape
from modelwright.objectives.metrics.ratio import Ratio


class MeanSquaredError(Ratio):
    """Squared error over all numbers of ``targets``."""

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in predictions in the shape of the targets, or ``[batch, 1]`` for ``[batch]``."""
        targets = field(batch, "targets", "metric mean-squared-error")
        outputs = same_shape(logits_of(outputs), targets, "metric mean-squared-error")
        count = torch.full((), targets.numel(), dtype=torch.int64, device=targets.device)
        self._add((outputs.double() - targets.double()).square().sum(), count)
