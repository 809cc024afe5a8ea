"""The teacher's own answers, where these are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import logits_of
from modelwright.objectives.distillation.comparing import samples, squares
from modelwright.objectives.distillation.seeing import Seen


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Squared error to the teacher's outputs, the mean over each sample's numbers: for regression and the like.

    On logits it is the limit of high temperatures, up to a factor (Hinton et al. 2015, section 2.1).

    Attributes:
        weight: coefficient of the term.
    """

    weight: float = 1.0

    student_modules: ClassVar[tuple[str, ...]] = ()
    teacher_modules: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[bool] = False

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Samples."""
        return samples(batch)

    def total(self, student: Seen, teacher: Seen, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed over the samples."""
        mine, theirs = (logits_of(seen.outputs) for seen in (student, teacher))
        if not (isinstance(mine, Tensor) and isinstance(theirs, Tensor)):
            raise ModelwrightError(f"outputs that are a {type(mine).__name__} have no squared error")
        return torch.as_tensor(squares("outputs", mine, theirs))
