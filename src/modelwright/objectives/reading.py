"""What losses and metrics ask of outputs, be these logits, an object that has them, or features short of the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modelwright.objectives import cross_entropy
from modelwright.objectives.calling import logits_of
from modelwright.objectives.features import Features
from modelwright.objectives.fields import check_logits
from modelwright.objectives.ranks import first_ranks


def check_outputs(outputs: Any, targets: Tensor, reader: str) -> None:
    """Outputs stand for one row of logits for each target.

    Raises:
        ModelwrightError: another shape, or nothing of the kind.
    """
    if isinstance(outputs, Features):
        check_logits(torch.empty(outputs.shape, device="meta"), targets, reader)
    else:
        check_logits(logits_of(outputs), targets, reader)


def total(outputs: Any, targets: Tensor, reader: str, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats, summed over the valid targets ``[...]``; at least in float32.

    Raises:
        ModelwrightError: outputs of another shape, or a target that is no class.
    """
    check_outputs(outputs, targets, reader)
    if isinstance(outputs, Features):
        return outputs.total(targets, label_smoothing=label_smoothing)
    return cross_entropy.cross_entropy_total(logits_of(outputs), targets, label_smoothing=label_smoothing)


def cross_entropies(outputs: Any, targets: Tensor, reader: str) -> Tensor:
    """Cross-entropy of each target ``[...]`` in nats, 0 where it is -100."""
    check_outputs(outputs, targets, reader)
    if isinstance(outputs, Features):
        return outputs.cross_entropies(targets)
    return cross_entropy.cross_entropies(logits_of(outputs), targets)


def likeliest(outputs: Any, targets: Tensor, reader: str) -> Tensor:
    """The class of the largest logit, int64 in the shape of the targets."""
    check_outputs(outputs, targets, reader)
    if isinstance(outputs, Features):
        return outputs.likeliest()
    return logits_of(outputs).argmax(dim=-1)  # type: ignore[no-any-return]


def ranks(outputs: Any, targets: Tensor, reader: str) -> Tensor:
    """How many classes come before the target, int64 in the shape of the targets; 0 is the likeliest."""
    check_outputs(outputs, targets, reader)
    if isinstance(outputs, Features):
        return outputs.ranks(targets)
    return first_ranks(logits_of(outputs), targets)
