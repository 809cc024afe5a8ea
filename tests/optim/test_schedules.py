from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Schedule
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.schedules.exponential import Exponential
from modelwright.optim.schedules.inverse_square_root import InverseSquareRoot
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.schedules.polynomial import Polynomial
from modelwright.optim.schedules.step import StepDecay
from modelwright.optim.schedules.wsd import WarmupStableDecay

FALLING = [Cosine, Linear, Polynomial]
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
    """As one sets its schedulers up for that many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs: dict[Schedule, LRScheduler] = {
        Linear(): LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total),
        Cosine(): CosineAnnealingLR(optimizer, T_max=total),
        Polynomial(): PolynomialLR(optimizer, total_iters=total, power=2.0),
        Polynomial(power=0.7): PolynomialLR(optimizer, total_iters=total, power=0.7),
        Exponential(k=0.03): ExponentialLR(optimizer, gamma=math.exp(-0.03)),
        StepDecay(every=3, gamma=0.5): StepLR(optimizer, step_size=3, gamma=0.5),
        StepDecay(milestones=(2, 5, 5, 60)): MultiStepLR(optimizer, milestones=[2, 5, 5, 60]),
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


@given(step=st.integers(0, 3000), total=totals, warmup=st.integers(0, 100), k=st.floats(0, 0.5))
def test_exponential_is_its_formula(step: int, total: int, warmup: int, k: float) -> None:
    factor = Exponential(k=k, warmup=warmup).factor(step, total)
    if step < warmup:
        assert factor == (step + 1) / warmup
    else:
        assert factor == pytest.approx(math.exp(-k * (step - max(warmup - 1, 0))), rel=1e-12)


def test_exponential_reaches_its_final_factor() -> None:
    technique = Exponential(final=0.2)
    ratios = [technique.factor(step + 1, 50) / technique.factor(step, 50) for step in range(50)]
    assert ratios == pytest.approx([0.2 ** (1 / 50)] * 50)
    assert [technique.factor(step, 50) for step in (50, 70)] == pytest.approx([0.2, 0.2])
    assert Exponential().factor(50, 50) == pytest.approx(0.01)


@given(step=st.integers(0, 500), total=st.integers(2, 300), floor=floors, power=st.floats(0.1, 5))
def test_polynomial_is_its_formula(step: int, total: int, floor: float, power: float) -> None:
    expected = floor + (1 - floor) * (1 - min(step, total) / total) ** power
    assert Polynomial(power=power, floor=floor).factor(step, total) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(step=st.integers(0, 100_000), warmup=st.integers(1, 9000))
def test_inverse_square_root_is_that_of_the_paper(step: int, warmup: int) -> None:
    """Up to the factor that makes its peak 1: ``min(t ** -0.5, t * warmup ** -1.5)``."""
    t = step + 1
    expected = min(t**-0.5, t * warmup**-1.5) * warmup**0.5
    assert InverseSquareRoot(warmup=warmup).factor(step, 50) == pytest.approx(expected, rel=1e-12)


def test_inverse_square_root_without_warm_up() -> None:
    assert [InverseSquareRoot(warmup=0).factor(t - 1, 9) for t in (1, 4, 9)] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    ("shape", "decay"),
    [("linear", [1, 0.75, 0.5, 0.25, 0]), ("sqrt", [1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0])],
)
def test_wsd_by_hand(shape: str, decay: list[float]) -> None:
    technique = WarmupStableDecay(warmup=2, decay=4, shape=shape)  # type: ignore[arg-type]
    expected = [0.5, 1, 1, 1, 1, 1, *decay, 0]
    assert [technique.factor(step, 10) for step in range(12)] == pytest.approx(expected)
    raised = WarmupStableDecay(warmup=2, decay=4, shape=shape, floor=0.2)  # type: ignore[arg-type]
    lifted = [0.5, *(0.2 + 0.8 * factor for factor in expected[1:])]
    assert [raised.factor(step, 10) for step in range(12)] == pytest.approx(lifted)


def test_wsd_decays_along_a_cosine() -> None:
    technique = WarmupStableDecay(decay=0.4, shape="cosine", warmup=0.1)
    assert [technique.factor(60 + step, 100) for step in range(41)] == pytest.approx(
        [Cosine().factor(step, 40) for step in range(41)]
    )


@given(total=st.integers(1, 300), warmup=st.floats(0, 0.9), decay=st.floats(0, 0.9))
def test_wsd_rises_stays_and_falls(total: int, warmup: float, decay: float) -> None:
    technique = WarmupStableDecay(warmup=warmup, decay=decay)
    factors = [technique.factor(step, total) for step in range(total)]
    top = max(round(warmup * total) - 1, 0)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top] == 1
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert min(factors) > 0
    assert factors.count(1) >= total - round(warmup * total) - round(decay * total)


def test_the_stable_part_does_not_know_how_long_the_run_is() -> None:
    """So a longer run goes through the same weights until the shorter one decays; a cosine does not."""
    short, long = ([WarmupStableDecay(warmup=5).factor(step, total) for step in range(80)] for total in (100, 400))
    assert short == long
    assert Cosine(warmup=5).factor(50, 100) != Cosine(warmup=5).factor(50, 400)


def test_steps_default_to_a_half_and_three_quarters() -> None:
    factors = [StepDecay().factor(step, 8) for step in range(10)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    assert [StepDecay(every=0.25, gamma=0.5).factor(step, 8) for step in range(8)] == [
        1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125,
    ]  # fmt: skip
    assert [StepDecay(every=4, gamma=0.5, warmup=2).factor(step, 8) for step in range(5)] == [0.5, 1, 1, 1, 0.5]


def test_a_fraction_and_a_number_of_steps_agree() -> None:
    for step in range(50):
        assert Cosine(warmup=0.2).factor(step, 50) == Cosine(warmup=10).factor(step, 50)


def test_a_warm_up_longer_than_the_budget_is_cut_off() -> None:
    assert [Linear(warmup=10).factor(step, 3) for step in range(3)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("settings", [{"warmup": -0.1}, {"warmup": 1.5}, {"floor": 1.1}, {"floor": -1.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ModelwrightError):
        Cosine(**settings)


@pytest.mark.parametrize(
    ("technique", "settings", "message"),
    [
        (StepDecay, {"gamma": 0.0}, "gamma"),
        (StepDecay, {"gamma": 1.1}, "gamma"),
        (StepDecay, {"every": 0}, "every"),
        (StepDecay, {"every": 2.5}, "every"),
        (StepDecay, {"milestones": (0.5, -1)}, r"milestones\[1\]"),
        (StepDecay, {"every": 5, "milestones": (0.5,)}, "both"),
        (Exponential, {"k": -0.1}, "k is"),
        (Exponential, {"final": 0.0}, "final"),
        (Exponential, {"k": 0.1, "final": 0.5}, "both"),
        (Polynomial, {"power": 0.0}, "power"),
        (WarmupStableDecay, {"decay": 1.5}, "decay"),
        (WarmupStableDecay, {"shape": "square"}, "shape"),
        (InverseSquareRoot, {"warmup": math.nan}, "warmup"),
    ],
)
def test_wrong_settings_are_named(technique: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        technique(**settings)
