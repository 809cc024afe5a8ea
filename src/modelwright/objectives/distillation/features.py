"""What modules of the teacher put out on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import ClassVar

from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.distillation.comparing import samples, squares
from modelwright.objectives.distillation.seeing import Seen


@dataclass(frozen=True, kw_only=True)
class Features:
    """Squared error to outputs of the teacher's modules: the mean over each sample's numbers, summed over the pairs.

    Source: Romero et al. 2014, "FitNets" (arXiv:1412.6550). Where the widths differ,
    :func:`modelwright.compression.distill` learns a projection for each pair.

    Attributes:
        pairs: a module of the student -> the module of the teacher whose output it is to have.
        weight: coefficient of the term.
    """

    pairs: Mapping[str, str]
    weight: float = 1.0

    attention: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ModelwrightError(
                "features need pairs of modules", where="pairs", remedy='write for example {"blocks.2": "blocks.5"}'
            )

    @property
    def student_modules(self) -> tuple[str, ...]:
        """Those of the pairs."""
        return tuple(self.pairs)

    @property
    def teacher_modules(self) -> tuple[str, ...]:
        """Those of the pairs."""
        return tuple(self.pairs.values())

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Samples."""
        return samples(batch)

    def total(self, student: Seen, teacher: Seen, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed over pairs and samples."""
        return reduce(
            add, (squares(f"'{a}' and '{b}'", student.hidden[a], teacher.hidden[b]) for a, b in self.pairs.items())
        )
