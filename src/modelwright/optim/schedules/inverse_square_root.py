"""A learning rate that falls with the root of the steps taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelwright.optim.schedules.shape import check_position, check_shape, warmup_factor, warmup_steps


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """``sqrt(n / t)`` after a warm-up of ``n`` steps, where ``t`` counts steps from 1.

    Vaswani et al. 2017 (arXiv:1706.03762), section 5.3. The end of the run is not asked for. The longer the warm-up,
    the slower the fall; without one the factor is ``1 / sqrt(t)``.

    Attributes:
        warmup: steps of the warm-up, or, below 1, their fraction of all steps; the factor rises from ``1 / n`` at
            the first step to 1 at the ``n``-th.
    """

    warmup: float = 0.02

    def __post_init__(self) -> None:
        check_shape("inverse-square-root", warmup=self.warmup)

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        steps = max(1, warmup_steps(self.warmup, total))
        return warmup_factor(step, steps) if step < steps else math.sqrt(steps / (step + 1))
