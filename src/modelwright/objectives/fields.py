"""What objectives and metrics read from a batch, and the mistakes users make there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError, nearest

IGNORED = -100
"""A target with this value is not counted, as in ``torch.nn.CrossEntropyLoss``."""


def field(batch: Mapping[str, Tensor], name: str, reader: str) -> Tensor:
    """``batch[name]``.

    Raises:
        ModelwrightError: the batch has no such field.
    """
    if name not in batch:
        present = ", ".join(f"'{known}'" for known in sorted(batch)) or "nothing"
        raise ModelwrightError(
            f"the {reader} needs '{name}' in each batch, which has {present}",
            remedy=nearest(name, batch),
        )
    return batch[name]


def class_targets(batch: Mapping[str, Tensor], name: str, reader: str) -> Tensor:
    """Targets that are numbers of classes, as int64.

    Raises:
        ModelwrightError: there are none, or they are no integers.
    """
    targets = field(batch, name, reader)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ModelwrightError(
            f"the {reader} needs whole numbers of classes in '{name}', not {targets.dtype}",
            remedy="convert them to int64, or choose the objective 'regression'",
        )
    return targets.long()


def valid(targets: Tensor) -> Tensor:
    """How many targets are not ignored, int64 and 0-dim."""
    return (targets != IGNORED).count_nonzero()


def check_logits(outputs: Tensor, targets: Tensor, reader: str) -> None:
    """Logits have the shape of the targets and the classes behind it.

    Raises:
        ModelwrightError: another shape, or no tensor at all.
    """
    if not isinstance(outputs, Tensor):
        raise ModelwrightError(f"the {reader} needs a tensor from the model, not {_kind(outputs)}")
    if outputs.shape[:-1] != targets.shape or outputs.dim() == 0:
        raise ModelwrightError(
            f"the model's output has shape {list(outputs.shape)}, and the {reader} expects "
            f"{[*targets.shape, 'classes']} for targets of shape {list(targets.shape)}",
            remedy="let the model return one row of logits for each target",
        )


def same_shape(outputs: Tensor, targets: Tensor, reader: str) -> Tensor:
    """Outputs in the shape of the targets; ``[..., 1]`` for targets ``[...]`` is understood, no broadcasting.

    Raises:
        ModelwrightError: another shape, or no tensor at all.
    """
    if not isinstance(outputs, Tensor):
        raise ModelwrightError(f"the {reader} needs a tensor from the model, not {_kind(outputs)}")
    if outputs.shape == (*targets.shape, 1):
        return outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise ModelwrightError(
            f"the model's output has shape {list(outputs.shape)}, and the {reader} expects "
            f"{list(targets.shape)}, the shape of the targets",
            remedy="let the model return numbers in the shape of the targets",
        )
    return outputs


def widened(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()


def check_smoothing(value: float) -> None:
    """Refuse a label smoothing that is no share."""
    if not 0 <= value < 1:
        raise ModelwrightError(f"label_smoothing is at least 0 and below 1, not {value}")


def _kind(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
