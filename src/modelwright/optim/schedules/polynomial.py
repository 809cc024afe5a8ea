"""A learning rate that falls with a power of what is left."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.base.errors import ModelwrightError
from modelwright.optim.schedules.shape import (
    check_position,
    check_shape,
    progress,
    warmup_factor,
    warmup_steps,
)


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``(1 - t / T) ** power``, from 1 to ``floor``, after a warm-up; the square unless told otherwise.

    ``floor`` is reached one step after the last, as in torch and transformers: with a floor of 0 the last
    step would else do nothing. The steps after it keep ``floor``, unless they belong to the warm-up.

    Attributes:
        power: above 0; 1 is a line.
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
        floor: the factor that the last step comes close to.
    """

    power: float = 2.0
    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_shape("polynomial", warmup=self.warmup, floor=self.floor)
        if not self.power > 0:
            raise ModelwrightError(f"polynomial: power is above 0, not {self.power}")

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        steps = warmup_steps(self.warmup, total)
        if step < steps:
            return warmup_factor(step, steps)
        left = float((1 - progress(step, total, steps)) ** self.power)
        return self.floor + (1 - self.floor) * left
