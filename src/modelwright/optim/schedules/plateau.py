"""A learning rate that falls when the held-out score stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.optim.groups import check_nonnegative
from modelwright.optim.schedules.shape import check_position, check_shape, warmup_factor, warmup_steps


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Times ``factor`` after more than ``patience`` held-out evaluations in a row without improvement.

    It needs evaluations: set ``evaluation.every``. Evaluations are counted, not steps. Its maths are those of torch's
    ``ReduceLROnPlateau`` with a relative threshold.

    Attributes:
        factor: what the rate is multiplied with each time, above 0 and below 1.
        patience: evaluations without improvement that are waited out.
        threshold: smallest improvement that counts, as a fraction of the best score.
        cooldown: evaluations after a fall that are not judged.
        floor: smallest factor.
        metric: the score to watch; null for the loss.
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    floor: float = 0.0
    metric: str | None = None
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_shape("plateau", warmup=self.warmup, floor=self.floor)
        check_nonnegative("plateau", patience=self.patience, threshold=self.threshold, cooldown=self.cooldown)
        if not 0 < self.factor < 1:
            raise ModelwrightError(f"plateau: factor is above 0 and below 1, not {self.factor}")

    def build(self) -> Falling:
        """The schedule itself, which remembers the scores of one run."""
        return Falling(self)


class Falling:
    """A schedule that is told the held-out scores.

    Args:
        settings: of the plateau.
    """

    def __init__(self, settings: Plateau) -> None:
        self.settings = settings
        self._current = 1.0
        self._best: float | None = None
        self._bad = 0
        self._cooling = 0

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``, by the scores seen so far."""
        check_position(step, total)
        return self._current * warmup_factor(step, warmup_steps(self.settings.warmup, total))

    def observe(self, score: float, better: Literal["lower", "higher"]) -> None:
        """Take note of a held-out score; a score that is not a number is no improvement."""
        self._judge(score, better)
        if self._cooling > 0:
            self._cooling, self._bad = self._cooling - 1, 0
        if self._bad > self.settings.patience:
            self._cooling, self._bad = self.settings.cooldown, 0
            self._fall()

    def state(self) -> dict[str, float | int | None]:
        """What it remembers, JSON-ready."""
        return {"current": self._current, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self._current, self._best = state["current"], state["best"]
        self._bad, self._cooling = state["bad"], state["cooling"]

    def _judge(self, score: float, better: Literal["lower", "higher"]) -> None:
        if self._improves(score, better):
            self._best, self._bad = score, 0
        else:
            self._bad += 1

    def _improves(self, score: float, better: Literal["lower", "higher"]) -> bool:
        if not math.isfinite(score):  # nothing would ever beat NaN, nor infinity by a part of itself
            return False
        if self._best is None:
            return True
        margin = self.settings.threshold * abs(self._best)
        return score < self._best - margin if better == "lower" else score > self._best + margin

    def _fall(self) -> None:
        lower = max(self._current * self.settings.factor, self.settings.floor)
        if lower < self._current:
            self._current = lower
            emit("learning-rate-lowered", f"no better score: the learning rate falls to {lower:.3g} of its base")
