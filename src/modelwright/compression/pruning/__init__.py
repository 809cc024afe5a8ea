"""Pruning: remove those units that matter least. One criterion, one file.

A criterion is a frozen dataclass with ``scores(model, units, evidence)``: by number of a class
(:class:`modelwright.compression.structure.UnitClass`) one score for each unit, ``[size]``; the lowest go first. Scores
of different classes are compared only when pruning is global, and are divided by their class's mean then. A criterion
with ``mend(model, units, keep, evidence)`` may alter the weights of those that stay, in place, before the others go;
one with ``needed(model, units, scores, evidence)`` says which stay whatever share was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family
from modelwright.compression.pruning.evidence import Evidence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelwright.compression.structure import Units

CRITERIA = Family(
    "criterion",
    {
        "activation": "modelwright.compression.pruning.activation:Activation",
        "confidence": "modelwright.compression.pruning.confidence:Confidence",
        "magnitude": "modelwright.compression.pruning.magnitude:Magnitude",
        "movement": "modelwright.compression.pruning.movement:Movement",
        "random": "modelwright.compression.pruning.random:Random",
        "statistics": "modelwright.compression.pruning.statistics:Statistics",
        "surgeon": "modelwright.compression.pruning.surgeon:Surgeon",
        "taylor": "modelwright.compression.pruning.taylor:Taylor",
    },
)


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


class Spares(Protocol):
    """A criterion that says of some units that they stay, whatever share was asked for."""

    def needed(
        self, model: nn.Module, units: Units, scores: Mapping[int, Tensor], evidence: Evidence
    ) -> Mapping[int, Tensor]:
        """By number of a class, which units stay at any rate: bool ``[size]``; no score lower than one that may go.

        Args:
            model: to be left as it was found.
            units: of it.
            scores: what the criterion gave.
            evidence: as for the scores.
        """
        ...


__all__ = ["CRITERIA", "Criterion", "Evidence", "Mends", "Spares"]
