"""Answer yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import call
from modelwright.objectives.fields import IGNORED, check_smoothing, field, same_shape, valid, widened

_TERM = "cross-entropy"
_READER = "objective binary"


@dataclass(frozen=True, kw_only=True)
class Binary:
    """Binary cross-entropy of questions answered by yes (1) or no (0), in nats.

    The model returns one logit for each target, ``[batch]`` or ``[batch, 1]`` for targets ``[batch]``,
    ``[batch, labels]`` for targets ``[batch, labels]``, whose labels do not exclude each other. Targets may be shares
    between 0 and 1; -100 is not counted.

    Attributes:
        input: the field of a batch that the model reads.
        target: the field of a batch that holds the answers.
        positive_weight: what a yes counts against a no; above 1 where yes is rare.
        label_smoothing: the share of a target that is spread evenly over yes and no.
    """

    input: str = "inputs"
    target: str = "targets"
    positive_weight: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)
        if self.positive_weight <= 0:
            raise ModelwrightError(
                f"positive_weight is above 0, not {self.positive_weight}", where="objective.positive_weight"
            )

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy and AUC, where the targets are in the field that metrics read."""
        return ("binary-accuracy", "auc") if self.target == "targets" else ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Targets that are not -100."""
        return {_TERM: valid(field(batch, self.target, _READER))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits in the shape of the targets."""
        return same_shape(call(model, batch, self.input, _READER), field(batch, self.target, _READER), _READER)

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats, summed over the valid targets."""
        targets = field(batch, self.target, _READER)
        logits = widened(same_shape(outputs, targets, _READER))
        ignored = targets == IGNORED
        wanted = targets.to(logits.dtype).masked_fill(ignored, 0)
        _check_shares(wanted)
        wanted = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = -self.positive_weight * wanted * functional.logsigmoid(logits)
        losses = losses - (1 - wanted) * functional.logsigmoid(-logits)
        return {_TERM: losses.masked_fill(ignored, 0).sum()}


def _check_shares(targets: Tensor) -> None:
    """Looked at on the CPU only, where it needs no waiting for a device."""
    if targets.device.type == "cpu" and bool(((targets < 0) | (targets > 1)).any()):
        wrong = targets[(targets < 0) | (targets > 1)][0].item()
        raise ModelwrightError(
            f"the objective binary needs targets between 0 and 1, or -100 for those to ignore, not {wrong:g}",
            remedy="for more than two classes choose the objective 'classification'",
        )
