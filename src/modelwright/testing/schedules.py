"""The contract of learning-rate schedules."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest

from modelwright.base.choice import Family
from modelwright.optim import SCHEDULES, Schedule
from modelwright.testing.contract import Contract

TOTALS = (1, 2, 3, 10, 97)


class ScheduleContract(Contract):
    """A schedule is a pure function of step and total that stays within [0, 1] and moves something."""

    family: ClassVar[Family] = SCHEDULES

    @pytest.mark.parametrize("total", TOTALS)
    def test_factors_are_numbers_from_0_to_1(self, technique: Schedule, total: int) -> None:
        """No factor is undefined, negative or above 1, even past the end."""
        for step in range(total + 5):
            factor = technique.factor(step, total)
            assert isinstance(factor, float)
            assert math.isfinite(factor)
            assert 0 <= factor <= 1

    @pytest.mark.parametrize("total", TOTALS)
    def test_first_step_does_something(self, technique: Schedule, total: int) -> None:
        """A first factor of 0 would waste a step."""
        assert technique.factor(0, total) > 0

    @pytest.mark.parametrize("total", TOTALS)
    def test_last_step_does_something(self, technique: Schedule, total: int) -> None:
        """A last factor of 0 would waste a step."""
        assert technique.factor(total - 1, total) > 0

    @pytest.mark.parametrize("total", TOTALS)
    def test_factor_depends_on_step_and_total_only(self, technique: Schedule, total: int) -> None:
        """Asked in another order, or of a copy, the answers are the same: a run may resume anywhere."""
        forth = [technique.factor(step, total) for step in range(total)]
        back = [copy.deepcopy(technique).factor(step, total) for step in reversed(range(total))]
        assert forth == back[::-1]

    def test_full_rate_is_reached(self, technique: Schedule) -> None:
        """Some step runs at the base rate, or the base rate would not be what it says."""
        assert max(technique.factor(step, 1000) for step in range(1000)) == pytest.approx(1, rel=1e-6)
