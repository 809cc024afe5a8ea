"""Predict a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modelwright.objectives.calling import call
from modelwright.objectives.cross_entropy import cross_entropy_total
from modelwright.objectives.fields import check_logits, check_smoothing, class_targets, field, valid

_TERM = "cross-entropy"
_READER = "objective classification"


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross-entropy of classes, in nats.

    The model returns logits ``[batch, classes]`` for targets ``[batch]``, or ``[batch, ..., classes]`` for targets
    ``[batch, ...]``, or an object with such ``logits``; a target of -100 is not counted. Where a batch has
    ``lengths [batch]``, as texts do, a model that takes ``lengths`` (or an ``attention_mask``) gets them.

    Attributes:
        input: the field of a batch that the model reads.
        target: the field of a batch that holds the numbers of the classes.
        label_smoothing: the share of a target that is spread evenly over the classes.
    """

    input: str = "inputs"
    target: str = "targets"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy, where the targets are in the field that metrics read."""
        return ("accuracy",) if self.target == "targets" else ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Targets that are not -100."""
        return {_TERM: valid(class_targets(batch, self.target, _READER))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[batch, ..., classes]``."""
        outputs: Tensor = call(model, batch, self.input, _READER)
        check_logits(outputs, field(batch, self.target, _READER), _READER)
        return outputs

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats, summed over the valid targets."""
        targets = class_targets(batch, self.target, _READER)
        check_logits(outputs, targets, _READER)
        return {_TERM: cross_entropy_total(outputs, targets, label_smoothing=self.label_smoothing)}
