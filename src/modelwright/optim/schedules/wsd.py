"""Warm-up, a stable rate, decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from modelwright.base.errors import ModelwrightError
from modelwright.optim.schedules.shape import (
    check_amounts,
    check_position,
    check_shape,
    steps_of,
    warmup_factor,
    warmup_steps,
)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """1 between a warm-up and a decay at the end (Hu et al. 2024, arXiv:2404.06395).

    A longer run takes the same steps up to its decay, so one run can be decayed from several places.
    ``floor`` is reached one step after the last; the steps after it keep it.

    Attributes:
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
        decay: steps of the decay, or, below 1, their fraction of all steps. The warm-up goes first where both do
            not fit.
        shape: of the decay, with ``d`` from 0 to 1: ``linear``, ``1 - d``; ``cosine``, half a wave; ``sqrt``,
            ``1 - sqrt(d)``, the best of those that Hägele et al. 2024 (arXiv:2405.18392) tried.
        floor: the factor that the last step comes close to.
    """

    warmup: float = 0.01
    decay: float = 0.2
    shape: Literal["linear", "cosine", "sqrt"] = "sqrt"
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_shape("wsd", warmup=self.warmup, floor=self.floor)
        check_amounts("wsd", decay=self.decay)
        if self.shape not in ("linear", "cosine", "sqrt"):
            raise ModelwrightError(f"wsd: shape is linear, cosine or sqrt, not {self.shape!r}")

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        warmup = warmup_steps(self.warmup, total)
        start = max(total - steps_of(self.decay, total), warmup - 1, 0)
        if step <= start or start >= total:
            return warmup_factor(step, warmup)
        return self.floor + (1 - self.floor) * self._left(min(1.0, (step - start) / (total - start)))

    def _left(self, done: float) -> float:
        if self.shape == "linear":
            return 1 - done
        return (1 + math.cos(math.pi * done)) / 2 if self.shape == "cosine" else 1 - math.sqrt(done)
