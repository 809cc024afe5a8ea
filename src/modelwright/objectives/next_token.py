"""Predict the next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modelwright.base.units import Bytes
from modelwright.objectives.features import Features
from modelwright.objectives.fields import check_smoothing, class_targets, field, valid
from modelwright.objectives.heads import Logits, check_logits_field, run
from modelwright.objectives.packing import borders
from modelwright.objectives.reading import check_outputs, total

_TERM = "cross-entropy"
_READER = "objective next-token"


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross-entropy of each next token, in nats.

    A batch has ``inputs [batch, time]`` and ``targets [batch, time]``, where ``targets[:, t]`` follows
    ``inputs[:, t]``; a target of -100 is not counted. The model returns logits ``[batch, time, vocabulary]``, or an
    object with ``logits``. Where it ends in a linear layer named ``head``, these need never exist at once: see
    :mod:`~modelwright.objectives.linear_cross_entropy`.

    A batch that has ``segments [batch, time]`` too, and perhaps ``positions``, holds several documents in a window. The
    model is told, and one that does not keep them apart is refused: see :mod:`~modelwright.objectives.packing`.

    Attributes:
        label_smoothing: the share of a target that is spread evenly over the vocabulary.
        logits: ``chunked`` makes some rows of logits at a time, ``full`` all of them; ``auto`` is ``chunked`` wherever
            the model's head allows it, for the memory it saves.
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
        """Perplexity; data that knows the bytes behind its tokens can have ``bits-per-byte`` too."""
        return ("perplexity",)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Targets that are not -100."""
        return {_TERM: valid(class_targets(batch, "targets", _READER))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Features | Tensor:
        """Logits ``[batch, time, vocabulary]``, or the features that they are made of.

        Raises:
            ModelwrightError: a field is missing or of another shape, or the model cannot keep the documents apart.
        """
        inputs, named = field(batch, "inputs", _READER), borders(model, batch)
        outputs = run(model, inputs, logits=self.logits, chunk=self.chunk, named=named)
        check_outputs(outputs, field(batch, "targets", _READER), _READER)
        return outputs

    def loss(self, outputs: Features | Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats, summed over the valid targets."""
        targets = class_targets(batch, "targets", _READER)
        return {_TERM: total(outputs, targets, _READER, label_smoothing=self.label_smoothing)}
