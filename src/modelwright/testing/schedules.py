"""The contract of schedules."""

from __future__ import annotations

import copy
import json
import math
from typing import ClassVar

import pytest

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.optim import SCHEDULES
from modelwright.optim.schedules.building import built, remembering
from modelwright.testing.contract import Contract

TOTALS = (1, 2, 3, 10, 97)


class ScheduleContract(Contract):
    """A schedule is a function of step and total that stays within [0, 1] and moves something.

    It is pure, but for one that is built from its configuration and told the held-out scores: that one depends on these
    as well, and its state is all that it remembers.
    """

    family: ClassVar[Family] = SCHEDULES

    @pytest.mark.parametrize("total", TOTALS)
    def test_factors_are_numbers_from_0_to_1(self, technique: object, total: int) -> None:
        """No factor is undefined, negative or above 1, even past the end."""
        schedule = built(technique)
        for step in range(total + 5):
            factor = schedule.factor(step, total)
            assert isinstance(factor, float)
            assert math.isfinite(factor)
            assert 0 <= factor <= 1

    @pytest.mark.parametrize("total", TOTALS)
    def test_first_step_does_something(self, technique: object, total: int) -> None:
        """A first factor of 0 would waste a step."""
        assert built(technique).factor(0, total) > 0

    @pytest.mark.parametrize("total", TOTALS)
    def test_last_step_does_something(self, technique: object, total: int) -> None:
        """A last factor of 0 would waste a step."""
        assert built(technique).factor(total - 1, total) > 0

    @pytest.mark.parametrize("total", TOTALS)
    def test_factor_depends_on_step_and_total_only(self, technique: object, total: int) -> None:
        """Asked in another order, or of a copy, the answers are the same: a run may resume anywhere."""
        schedule = built(technique)
        forth = [schedule.factor(step, total) for step in range(total)]
        back = [built(copy.deepcopy(technique)).factor(step, total) for step in reversed(range(total))]
        assert forth == back[::-1]

    def test_full_rate_is_reached(self, technique: object) -> None:
        """Some step runs at the base rate, or the base rate would not be what it says."""
        schedule = built(technique)
        assert max(schedule.factor(step, 1000) for step in range(1000)) == pytest.approx(1, rel=1e-6)

    def test_a_place_that_is_none_is_refused(self, technique: object) -> None:
        """A step below 0, or a run without steps."""
        schedule = built(technique)
        for step, total in ((-1, 10), (0, 0)):
            with pytest.raises(ModelwrightError):
                schedule.factor(step, total)

    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_what_it_remembers_comes_back(self, technique: object, better: str) -> None:
        """Of a schedule that is told scores: saved as JSON at any place, it goes on as if nothing had happened."""
        whole = remembering(built(technique))
        if whole is None:
            assert built(technique) is technique
            return
        scores = [1.0, 0.5, 0.6, *[0.7, 0.5] * 30, 0.1, math.nan, *[2.0] * 30]
        factors = []
        for score in scores:
            resumed = remembering(built(technique))
            assert resumed is not None
            resumed.load(json.loads(json.dumps(whole.state(), allow_nan=False)))
            whole.observe(score, better)  # type: ignore[arg-type]
            resumed.observe(score, better)  # type: ignore[arg-type]
            factors.append(whole.factor(500, 1000))
            assert (resumed.state(), resumed.factor(500, 1000)) == (whole.state(), factors[-1])
        assert factors[-1] < factors[0] == 1
