"""A learning rate that falls along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelwright.optim.schedules.shape import (
    check_position,
    check_shape,
    progress,
    warmup_factor,
    warmup_steps,
)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """From 1 to ``floor`` along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), after a warm-up.

    ``floor`` is reached one step after the last, as in torch and transformers: with a floor of 0 the last
    step would else do nothing. The steps after it keep ``floor``, unless they belong to the warm-up.

    Attributes:
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
        floor: the factor that the last step comes close to.
    """

    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_shape("cosine", warmup=self.warmup, floor=self.floor)

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        steps = warmup_steps(self.warmup, total)
        if step < steps:
            return warmup_factor(step, steps)
        wave = (1 + math.cos(math.pi * progress(step, total, steps))) / 2
        return self.floor + (1 - self.floor) * wave
