"""A constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.optim.schedules.shape import check_position, check_shape, warmup_factor, warmup_steps


@dataclass(frozen=True, kw_only=True)
class Constant:
    """1 throughout, after a linear warm-up.

    Attributes:
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_shape("constant", warmup=self.warmup)

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        return warmup_factor(step, warmup_steps(self.warmup, total))
