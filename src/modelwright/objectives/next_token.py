"""Predict the next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modelwright.objectives.fields import (
    check_logits,
    check_smoothing,
    class_targets,
    cross_entropy_total,
    field,
    valid,
)

_TERM = "cross-entropy"


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross-entropy of each next token, in nats.

    A batch has ``inputs [batch, time]`` and ``targets [batch, time]``, where ``targets[:, t]`` follows
    ``inputs[:, t]``; a target of -100 is not counted. The model returns logits ``[batch, time, vocabulary]``.

    Attributes:
        label_smoothing: the share of a target that is spread evenly over the vocabulary.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Perplexity; data that knows the bytes behind its tokens can have ``bits-per-byte`` too."""
        return ("perplexity",)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Targets that are not -100."""
        return {_TERM: valid(class_targets(batch, "targets", "objective next-token"))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[batch, time, vocabulary]``."""
        outputs: Tensor = model(field(batch, "inputs", "objective next-token"))
        check_logits(outputs, field(batch, "targets", "objective next-token"), "objective next-token")
        return outputs

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats, summed over the valid targets."""
        targets = class_targets(batch, "targets", "objective next-token")
        check_logits(outputs, targets, "objective next-token")
        return {_TERM: cross_entropy_total(outputs, targets, label_smoothing=self.label_smoothing)}
