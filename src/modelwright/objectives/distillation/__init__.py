"""Distillation: a student learns from what a teacher makes of the same samples, beside the targets or without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from modelwright.objectives.distillation.seeing import Seen

DISTANCES = Family(
    "distance to a teacher",
    {
        "logits": "modelwright.objectives.distillation.logits:Logits",
        "answers": "modelwright.objectives.distillation.answers:Answers",
        "features": "modelwright.objectives.distillation.features:Features",
        "relations": "modelwright.objectives.distillation.relations:Relations",
    },
)


class Distance(Protocol):
    """How far a student is from its teacher on a batch: one term of what is minimised.

    ``student_modules`` and ``teacher_modules`` name the modules whose outputs are compared, ``attention`` says whether
    queries, keys and values are.
    """

    @property
    def weight(self) -> float:
        """Coefficient of the term."""
        ...

    @property
    def student_modules(self) -> tuple[str, ...]:
        """Names of modules of the student."""
        ...

    @property
    def teacher_modules(self) -> tuple[str, ...]:
        """Names of modules of the teacher."""
        ...

    @property
    def attention(self) -> bool:
        """Whether attention is looked into."""
        ...

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many things are compared, int64 and 0-dim, before the forward pass."""
        ...

    def total(self, student: Seen, teacher: Seen, batch: Mapping[str, Tensor]) -> Tensor:
        """The distance, summed over them; 0-dim."""
        ...


__all__ = ["DISTANCES", "Distance"]
