"""Pruning: remove those units that matter least. One criterion, one file.

A criterion is a frozen dataclass with ``scores(model, units, evidence)``: by number of a class
(:class:`modelwright.compression.structure.UnitClass`) one score for each unit, ``[size]``; the lowest go first. Scores
of different classes are compared only when pruning is global, and are divided by their class's mean then. A criterion
with ``mend(model, units, keep, evidence)`` may alter the weights of those that stay, in place, before the others go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelwright.compression.structure import Units

CRITERIA = Family(
    "criterion",
    {
        "magnitude": "modelwright.compression.pruning.magnitude:Magnitude",
        "random": "modelwright.compression.pruning.random:Random",
    },
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a criterion may look at beside the weights.

    Attributes:
        example_inputs: what the model was traced with.
        batches: data; an iterable that can be gone through more than once, or ``None``.
        objective: of :mod:`modelwright.objectives`, or a callable ``(model, batch)`` that returns a loss, or ``None``.
        seed: of whatever is random.
    """

    example_inputs: Any
    batches: Iterable[Any] | None = None
    objective: Any = None
    seed: int = 0


class Criterion(Protocol):
    """The configuration of a criterion."""

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """By number of each class in ``units.classes``, how much each unit matters, ``[size]``; not negative.

        The model is a copy: it may be run, and must be left as it was found.

        Raises:
            ModelwrightError: the evidence lacks what the criterion needs.
        """
        ...


class Mends(Protocol):
    """A criterion that makes good for what is removed."""

    def mend(self, model: nn.Module, units: Units, keep: Mapping[int, list[int]], evidence: Evidence) -> None:
        """Alter the weights of units that stay, in place, so that the others' removal changes less.

        Args:
            model: with all of its units still there.
            units: of it.
            keep: by number of a class, which units will stay.
            evidence: as for the scores.
        """
        ...


__all__ = ["CRITERIA", "Criterion", "Evidence", "Mends"]
