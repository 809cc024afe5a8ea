from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Schedule
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.schedules.linear import Linear

FALLING = [Cosine, Linear]
totals = st.integers(2, 5000)
floors = st.floats(0, 1)


def test_constant_by_hand() -> None:
    assert [Constant(warmup=4).factor(step, 9) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [Constant().factor(step, 2) for step in range(4)] == [1, 1, 1, 1]


def test_linear_by_hand() -> None:
    assert [Linear().factor(step, 5) for step in range(7)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert [Linear().factor(step, 4) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    factors = [Linear(warmup=2, floor=0.5).factor(step, 5) for step in range(6)]
    assert factors == [0.5, 1, 0.875, 0.75, 0.625, 0.5]


def test_cosine_by_hand() -> None:
    halves = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    assert [Cosine().factor(step, 4) for step in range(5)] == pytest.approx(halves, abs=1e-15)
    raised = [0.2 + 0.8 * value for value in halves]
    assert [Cosine(floor=0.2).factor(step, 4) for step in range(5)] == pytest.approx(raised, abs=1e-15)


@pytest.mark.parametrize("schedule", FALLING)
@given(total=totals, floor=floors, warmup=st.floats(0, 0.5))
def test_ends_are_exact(schedule: type[Linear], total: int, floor: float, warmup: float) -> None:
    technique = schedule(floor=floor, warmup=warmup)
    steps = round(warmup * total)
    assert technique.factor(0, total) == 1 / max(1, steps)
    assert technique.factor(max(steps - 1, 0), total) == 1
    if steps < total:
        assert technique.factor(total, total) == floor
        assert technique.factor(total + 7, total) == floor


@pytest.mark.parametrize("schedule", FALLING)
@given(total=st.integers(1, 5000), warmup=st.floats(0, 0.9))
def test_no_step_is_wasted(schedule: type[Linear], total: int, warmup: float) -> None:
    technique = schedule(warmup=warmup)
    assert technique.factor(0, total) > 0
    assert technique.factor(total - 1, total) > 0
    assert technique.factor(total, total) == 0


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_the_shapes_are_torchs(total: int) -> None:
    """Its linear and its cosine schedule, as one sets them up for that many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs: dict[Schedule, LRScheduler] = {
        Linear(): LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total),
        Cosine(): CosineAnnealingLR(optimizer, T_max=total),
    }
    for ours, scheduler in theirs.items():
        optimizer.param_groups[0]["lr"] = 1.0
        for step in range(total + 1):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.factor(step, total), abs=1e-12)
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("schedule", FALLING)
@given(total=st.integers(2, 300), floor=floors, warmup=st.integers(0, 20))
def test_rises_then_falls(schedule: type[Linear], total: int, floor: float, warmup: int) -> None:
    technique = schedule(floor=floor, warmup=warmup)
    factors = [technique.factor(step, total) for step in range(total)]
    top = min(max(warmup - 1, 0), total - 1)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert all(0 < factor <= 1 for factor in factors[: top + 1])
    assert all(floor <= factor <= 1 for factor in factors[top + 1 :])


def test_a_fraction_and_a_number_of_steps_agree() -> None:
    for step in range(50):
        assert Cosine(warmup=0.2).factor(step, 50) == Cosine(warmup=10).factor(step, 50)


def test_a_warm_up_longer_than_the_budget_is_cut_off() -> None:
    assert [Linear(warmup=10).factor(step, 3) for step in range(3)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("settings", [{"warmup": -0.1}, {"warmup": 1.5}, {"floor": 1.1}, {"floor": -1.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ModelwrightError):
        Cosine(**settings)


def test_positions_that_are_none_are_refused() -> None:
    for schedule in (Constant(), Cosine(), Linear()):
        with pytest.raises(ModelwrightError):
            schedule.factor(-1, 10)
        with pytest.raises(ModelwrightError):
            schedule.factor(0, 0)
