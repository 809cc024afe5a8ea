"""F1, precision and recall, from decisions counted class by class.

Macro means run over the classes that occur as a target or a decision; a class that was never decided for has precision
0, one that never was a target recall 0, as in scikit-learn.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.metrics.decisions import Decisions
from modelwright.objectives.metrics.undefined import undefined


class F1(Decisions):
    """The mean over classes of ``2 hits / (decisions + targets)``: macro F1."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def compute(self) -> float:
        """Macro F1, 0 to 1."""
        hits, decided, wanted = self._seen()
        occurs = (decided + wanted) > 0
        return float((2 * hits / (decided + wanted))[occurs].mean())


class F1Micro(Decisions):
    """F1 of all decisions pooled; where there is one decision per target, this is accuracy."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def compute(self) -> float:
        """Micro F1, 0 to 1."""
        hits, decided, wanted = (column.sum() for column in self._seen())
        return float(2 * hits / (decided + wanted))


class F1Binary(Decisions):
    """F1 of the second of two classes, number 1 or yes."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def compute(self) -> float:
        """F1 of a yes, 0 to 1; NaN where there was none, neither as target nor as decision.

        Raises:
            ModelwrightError: nothing was seen, or there are more classes than two.
        """
        seen = self._seen()
        if len(seen[0]) != 2:
            raise ModelwrightError(
                f"the metric f1-binary is for two classes, and there are {len(seen[0])}",
                where="evaluation.metrics",
                remedy="choose f1 or f1-micro",
            )
        hits, decided, wanted = (column[1] for column in seen)
        if decided + wanted == 0:
            return undefined("f1-binary", "there was no yes, neither as a target nor as a decision")
        return float(2 * hits / (decided + wanted))


class Precision(Decisions):
    """The mean over classes of ``hits / decisions``: macro precision."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def compute(self) -> float:
        """Macro precision, 0 to 1."""
        hits, decided, wanted = self._seen()
        return _macro(hits, decided, (decided + wanted) > 0)


class Recall(Decisions):
    """The mean over classes of ``hits / targets``: macro recall."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def compute(self) -> float:
        """Macro recall, 0 to 1."""
        hits, decided, wanted = self._seen()
        return _macro(hits, wanted, (decided + wanted) > 0)


def _macro(hits: Tensor, base: Tensor, occurs: Tensor) -> float:
    return float((hits / base.clamp(min=1))[occurs].mean())
