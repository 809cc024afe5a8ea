"""Coefficient of determination."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelwright.objectives.calling import logits_of
from modelwright.objectives.fields import field, same_shape
from modelwright.objectives.metrics.rows import Rows
from modelwright.objectives.metrics.undefined import undefined


class R2(Rows):
    """``1 - squared error / squared deviation of the targets from their mean``, the mean over the targets' columns.

    One row per batch is kept: its count, and per column mean, squared deviation and squared error. They are united as
    Chan, Golub & LeVeque 1979 do it, which stays exact where the mean is large against the deviation.
    """

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in predictions in the shape of the targets, or ``[batch, 1]`` for ``[batch]``."""
        targets = field(batch, "targets", "metric r2")
        if not len(targets):
            return
        error = same_shape(logits_of(outputs), targets, "metric r2").double() - targets.double()
        columns = targets.double().reshape(len(targets), -1)
        mean = columns.mean(0)
        sums = (columns - mean).square().sum(0), error.reshape(len(targets), -1).square().sum(0)
        count = torch.full_like(mean, len(targets))
        self._append({"moments": torch.stack([count, mean, *sums])[None]})

    def compute(self) -> float:
        """At most 1; 0 for a model that always says the mean; NaN where a column of targets never varies."""
        counts, means, deviations, errors = self._seen()["moments"].unbind(1)
        mean = (counts * means).sum(0) / counts.sum(0)
        spread = (deviations + counts * (means - mean).square()).sum(0)
        if not bool((spread > 0).all()):
            return undefined("r2", "the targets do not vary")
        return float((1 - errors.sum(0) / spread).mean())
