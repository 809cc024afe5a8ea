"""Predict one sequence from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modelwright.base.units import Bytes
from modelwright.objectives.features import Features
from modelwright.objectives.fields import check_smoothing, class_targets, field, valid
from modelwright.objectives.heads import Logits, check_logits_field, run
from modelwright.objectives.reading import check_outputs, total

_TERM = "cross-entropy"
_READER = "objective sequence-to-sequence"


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence:
    """Cross-entropy of each token of a second sequence, given those before it and all of a first, in nats.

    A batch has ``inputs [batch, source]``, ``input_mask [batch, source]`` (true where there is input),
    ``decoder_inputs [batch, target]`` and ``targets [batch, target]``, where -100 is not counted. The model is called
    with the first three, in this order, and returns logits ``[batch, target, vocabulary]``.

    Attributes:
        label_smoothing: the share of a target that is spread evenly over the vocabulary; 0.1 in Vaswani et al. 2017
            (arXiv:1706.03762).
        logits: as of ``next-token``: ``auto``, ``chunked`` or ``full``.
        chunk: bytes of logits that exist at a time; ``None``: as suits the device.
    """

    label_smoothing: float = 0.0
    logits: Logits = "auto"
    chunk: Bytes | None = None

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)
        check_logits_field(self.logits, self.chunk)

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Perplexity and the share of tokens that are right, given those before them."""
        return ("perplexity", "token-accuracy")

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Targets that are not -100."""
        return {_TERM: valid(class_targets(batch, "targets", _READER))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Features | Tensor:
        """Logits ``[batch, target, vocabulary]``, or the features that they are made of."""
        inputs = [field(batch, name, _READER) for name in ("inputs", "input_mask", "decoder_inputs")]
        outputs = run(model, *inputs, logits=self.logits, chunk=self.chunk)
        check_outputs(outputs, field(batch, "targets", _READER), _READER)
        return outputs

    def loss(self, outputs: Features | Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats, summed over the valid targets."""
        targets = class_targets(batch, "targets", _READER)
        return {_TERM: total(outputs, targets, _READER, label_smoothing=self.label_smoothing)}
