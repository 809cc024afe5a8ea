"""Predict numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelwright.objectives.calling import call
from modelwright.objectives.fields import field, same_shape, widened

_TERM = "squared-error"
_READER = "objective regression"


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Squared error, summed over all numbers of all samples; each number counts as one target.

    The model's output has the shape of the targets, or ``[batch, 1]`` for targets ``[batch]``; an object with such
    ``logits`` will do. Where a batch has ``lengths [batch]``, a model that takes ``lengths`` (or an
    ``attention_mask``) gets them.

    Attributes:
        input: the field of a batch that the model reads.
        target: the field of a batch that holds the numbers to predict.
    """

    input: str = "inputs"
    target: str = "targets"

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The mean squared error, where the targets are in the field that metrics read."""
        return ("mean-squared-error",) if self.target == "targets" else ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All numbers of the targets."""
        targets = field(batch, self.target, _READER)
        return {_TERM: torch.full((), targets.numel(), dtype=torch.int64, device=targets.device)}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Predictions in the shape of the targets."""
        return same_shape(call(model, batch, self.input, _READER), field(batch, self.target, _READER), _READER)

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared error, summed over all numbers."""
        targets = field(batch, self.target, _READER)
        outputs = widened(same_shape(outputs, targets, _READER))
        return {_TERM: (outputs - targets.to(outputs.dtype)).square().sum()}
