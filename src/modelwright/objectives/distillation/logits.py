"""The teacher's probabilities of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import logits_of
from modelwright.objectives.distillation.seeing import Seen
from modelwright.objectives.features import Features as Headless
from modelwright.objectives.fields import IGNORED, check_logits, class_targets, valid, widened

_READER = "distance logits"


@dataclass(frozen=True, kw_only=True)
class Logits:
    """``T^2 * KL(teacher || student)`` of the classes' probabilities at temperature T, of each valid target, in nats.

    The factor keeps the gradients' size whatever the temperature. Source: Hinton et al. 2015 (arXiv:1503.02531). Where
    student and teacher end in a linear head, the logits of a large vocabulary exist some rows at a time.

    Attributes:
        temperature: above 1 also what the teacher holds for unlikely is learnt.
        weight: coefficient of the term.
        target: the field of a batch whose entries are not -100 where the models are compared.
    """

    temperature: float = 2.0
    weight: float = 1.0
    target: str = "targets"

    student_modules: ClassVar[tuple[str, ...]] = ()
    teacher_modules: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ModelwrightError(f"a temperature is above 0, not {self.temperature}", where="temperature")

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Valid targets."""
        return valid(class_targets(batch, self.target, _READER))

    def total(self, student: Seen, teacher: Seen, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed over the valid targets."""
        wanted = class_targets(batch, self.target, _READER)
        mine, theirs = (_rows(seen.outputs, wanted) for seen in (student, teacher))
        if mine.classes != theirs.classes:
            raise ModelwrightError(
                f"the student has {mine.classes} classes, the teacher {theirs.classes}",
                where="objective.teacher",
                remedy="teach with a model of the same classes or vocabulary",
            )
        kept = (wanted != IGNORED).flatten()
        size = min(mine.size, theirs.size)
        if size >= len(kept):
            return self._of(mine.logits(slice(None)), theirs.logits(slice(None)), kept)
        totals = [
            checkpoint(self._part, mine, theirs, kept, slice(start, start + size), use_reentrant=False)
            for start in range(0, len(kept), size)
        ]
        return torch.stack(totals).sum()

    def _part(self, mine: _Rows, theirs: _Rows, kept: Tensor, part: slice) -> Tensor:
        return self._of(mine.logits(part), theirs.logits(part), kept[part])

    def _of(self, mine: Tensor, theirs: Tensor, kept: Tensor) -> Tensor:
        own = functional.log_softmax(widened(mine) / self.temperature, -1)
        wished = functional.log_softmax(widened(theirs.detach()) / self.temperature, -1).to(own.dtype)
        losses = functional.kl_div(own, wished, reduction="none", log_target=True).sum(-1)
        return losses.masked_fill(~kept, 0).sum() * self.temperature**2


@dataclass(frozen=True, eq=False)
class _Rows:
    """Logits of rows, some at a time where they are made of features."""

    outputs: Any
    classes: int
    size: int

    def logits(self, part: slice) -> Tensor:
        if isinstance(self.outputs, Headless):
            return self.outputs.head.logits(self.outputs.features.flatten(0, -2)[part])
        return logits_of(self.outputs).flatten(0, -2)[part]  # type: ignore[no-any-return]


def _rows(outputs: Any, wanted: Tensor) -> _Rows:
    if isinstance(outputs, Headless):
        check_logits(torch.empty(outputs.shape, device="meta"), wanted, _READER)
        return _Rows(outputs, outputs.shape[-1], outputs.head.rows())
    logits = logits_of(outputs)
    check_logits(logits, wanted, _READER)
    return _Rows(outputs, logits.shape[-1], max(1, wanted.numel()))
