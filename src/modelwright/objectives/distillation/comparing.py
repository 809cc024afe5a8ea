"""Parts of distances that compare tensors sample by sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.fields import widened


def samples(batch: Mapping[str, Tensor]) -> Tensor:
    """How many a batch has, int64 and 0-dim."""
    some = next(iter(batch.values()))
    return torch.tensor(len(some), device=some.device)


def squares(what: str, student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the squared differences of each sample, summed over the samples.

    Raises:
        ModelwrightError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ModelwrightError(
            f"{what}: the student has {list(student.shape)}, the teacher {list(teacher.shape)}",
            remedy="compare modules of equal width, or let distill() project the student's",
        )
    return (widened(student) - widened(teacher.detach())).square().flatten(1).mean(1).sum()
