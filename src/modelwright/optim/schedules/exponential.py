"""A learning rate that falls exponentially."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelwright.base.errors import ModelwrightError
from modelwright.optim.groups import check_nonnegative
from modelwright.optim.schedules.shape import (
    check_position,
    check_shape,
    check_share,
    progress,
    warmup_factor,
    warmup_steps,
)

_FINAL = 0.01


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """``exp(-k t)``, where ``t`` counts steps from the last one of the warm-up, or from 0 without one.

    Attributes:
        k: by how much the logarithm falls in each step.
        final: instead of ``k``, the factor that is reached one step after the last and kept; 0.01 where neither is
            given.
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
    """

    k: float | None = None
    final: float | None = None
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_shape("exponential", warmup=self.warmup)
        if self.k is not None and self.final is not None:
            raise ModelwrightError("exponential: k and final are both given", remedy="leave one of them out")
        check_nonnegative("exponential", k=self.k or 0.0)
        if self.final is not None:
            check_share("exponential", final=self.final)

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        steps = warmup_steps(self.warmup, total)
        if step < steps:
            return warmup_factor(step, steps)
        if self.k is not None:
            return math.exp(-self.k * (step - max(steps - 1, 0)))
        return float((_FINAL if self.final is None else self.final) ** progress(step, total, steps))
