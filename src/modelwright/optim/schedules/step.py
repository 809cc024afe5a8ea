"""A learning rate that falls in steps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from modelwright.base.errors import ModelwrightError
from modelwright.optim.schedules.shape import (
    check_amounts,
    check_position,
    check_shape,
    check_share,
    steps_of,
    warmup_factor,
    warmup_steps,
)

_MILESTONES = (0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """Times ``gamma`` at each milestone, or every so many steps; steps are counted from the start of the run.

    Without milestones and ``every`` the rate falls after a half and three quarters of the run (as He et al. 2016,
    arXiv:1512.03385, trained on CIFAR).

    Attributes:
        gamma: what the factor is multiplied with each time, above 0.
        every: steps between two falls, or, below 1, their fraction of all steps.
        milestones: instead of ``every``, the steps (from 0) that are the first at a lower rate; below 1 fractions
            of all steps.
        warmup: steps of the warm-up, or, below 1, their fraction of all steps. With ``n`` of them the factor
            rises from ``1 / n`` at the first step to 1 at the ``n``-th; a budget that is shorter cuts it off.
    """

    gamma: float = 0.1
    every: float | None = None
    milestones: tuple[float, ...] | None = None
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_shape("step", warmup=self.warmup)
        check_share("step", gamma=self.gamma)
        if self.every is not None and self.milestones is not None:
            raise ModelwrightError("step: every and milestones are both given", remedy="leave one of them out")
        if self.every is not None:
            check_amounts("step", every=self.every)
            if self.every == 0:
                raise ModelwrightError("step: every is above 0")
        check_amounts("step", **{f"milestones[{i}]": value for i, value in enumerate(self.milestones or ())})

    def factor(self, step: int, total: int) -> float:
        """The factor of the update number ``step`` (from 0) of ``total``."""
        check_position(step, total)
        falls = float(self.gamma ** self._falls(step, total))
        return falls * warmup_factor(step, warmup_steps(self.warmup, total))

    def _falls(self, step: int, total: int) -> int:
        """How often the rate has fallen; never before the first step, however short the run."""
        if self.every is not None:
            return step // max(1, steps_of(self.every, total))
        milestones = _MILESTONES if self.milestones is None else self.milestones
        return bisect_right(sorted(max(1, steps_of(milestone, total)) for milestone in milestones), step)
