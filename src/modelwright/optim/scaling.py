"""Dynamic loss scaling for fp16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelwright.base.errors import ModelwrightError, RunFailed

_LARGEST = 3.4028234663852886e38  # of float32, in which losses are scaled


@dataclass(frozen=True, kw_only=True)
class DynamicScale:
    """The loss is multiplied by a scale, so that small gradients do not vanish in fp16 (Micikevicius et al. 2018,
    arXiv:1710.03740); the arithmetic is that of ``torch.amp.GradScaler``.

    Attributes:
        initial: scale of the first step.
        growth: what the scale is multiplied with after ``interval`` steps in a row without overflow, above 1.
        backoff: what it is multiplied with after an overflow, above 0 and below 1.
        interval: steps between two growths.
        smallest: scale below which training is given up.
    """

    initial: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    smallest: float = 1.0

    def __post_init__(self) -> None:
        if not self.growth > 1:
            raise ModelwrightError(f"loss scale: growth is above 1, not {self.growth}")
        if not 0 < self.backoff < 1:
            raise ModelwrightError(f"loss scale: backoff is above 0 and below 1, not {self.backoff}")
        if not self.interval >= 1:
            raise ModelwrightError(f"loss scale: interval is at least 1, not {self.interval}")
        if not 0 < self.smallest <= self.initial <= _LARGEST:
            raise ModelwrightError(
                f"loss scale: 0 < smallest <= initial does not hold for {self.smallest} and {self.initial}"
            )

    def build(self) -> LossScale:
        """The scale of one run."""
        return LossScale(self)


class LossScale:
    """A scale that grows and backs off.

    Args:
        settings: how.
    """

    def __init__(self, settings: DynamicScale) -> None:
        self.settings = settings
        self.value = float(settings.initial)
        self._good = 0

    def update(self, overflowed: bool) -> Literal["grown", "backed-off"] | None:
        """Take note of a step; with ``overflowed``, its gradients were not finite and it was left out.

        Returns:
            What became of the scale.

        Raises:
            RunFailed: it would fall below its smallest value.
        """
        if overflowed:
            return self._back_off()
        self._good += 1
        if self._good < self.settings.interval:
            return None
        self._good = 0
        if self.value * self.settings.growth > _LARGEST:
            return None
        self.value *= self.settings.growth
        return "grown"

    def state(self) -> dict[str, float | int]:
        """What it remembers, JSON-ready."""
        return {"value": self.value, "good": self._good}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.value, self._good = float(state["value"]), int(state["good"])

    def _back_off(self) -> Literal["backed-off"]:
        lower = self.value * self.settings.backoff
        if lower < self.settings.smallest:
            raise RunFailed(
                f"gradients overflow fp16 even with the loss scale {self.value:g}",
                where="plan.precision",
                remedy="train with precision bf16 or fp32, or lower the learning rate",
            )
        self.value, self._good = lower, 0
        return "backed-off"
