from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.optim.scaling import DynamicScale


class Torchs:
    """``torch.amp.GradScaler`` over one number, whose gradient is made to overflow on demand."""

    def __init__(self, settings: DynamicScale) -> None:
        self.parameter = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.0)
        self.scaler = torch.amp.GradScaler(
            "cpu",
            init_scale=settings.initial,
            growth_factor=settings.growth,
            backoff_factor=settings.backoff,
            growth_interval=settings.interval,
        )
        self.scaler.scale(torch.zeros(1))  # makes its tensors

    def update(self, overflowed: bool) -> float:
        self.parameter.grad = torch.full((1,), torch.inf if overflowed else 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale()


@given(
    overflows=st.lists(st.booleans(), min_size=1, max_size=40),
    interval=st.integers(1, 5),
    growth=st.sampled_from([2.0, 4.0]),
    backoff=st.sampled_from([0.5, 0.25]),
)
def test_it_scales_as_torchs_scaler_does(overflows: list[bool], **settings: Any) -> None:
    technique = DynamicScale(initial=2.0**10, smallest=2.0**-120, **settings)
    ours, theirs = technique.build(), Torchs(technique)
    for overflowed in overflows:
        before = ours.value
        told = ours.update(overflowed)
        assert ours.value == theirs.update(overflowed)
        assert told == ("grown" if ours.value > before else "backed-off" if ours.value < before else None)


def test_it_does_not_grow_beyond_what_float32_holds() -> None:
    technique = DynamicScale(initial=2.0**126, interval=2)
    ours, theirs = technique.build(), Torchs(technique)
    for overflowed in [False] * 7 + [True] + [False] * 5:
        ours.update(overflowed)
        assert ours.value == theirs.update(overflowed)
    assert ours.value == 2.0**127


def test_an_overflow_starts_the_count_anew() -> None:
    scale = DynamicScale(initial=8.0, interval=3).build()
    told = [scale.update(overflowed) for overflowed in (False, False, True, False, False, False)]
    assert told == [None, None, "backed-off", None, None, "grown"]
    assert scale.value == 8.0


@given(overflows=st.lists(st.booleans(), max_size=30), cut=st.integers(0, 30))
def test_it_resumes_where_it_was(overflows: list[bool], cut: int) -> None:
    technique = DynamicScale(interval=3, smallest=2.0**-40)
    whole, resumed = technique.build(), technique.build()
    for number, overflowed in enumerate(overflows):
        if number == cut:
            fresh = technique.build()
            fresh.load(json.loads(json.dumps(resumed.state())))
            resumed = fresh
        whole.update(overflowed)
        resumed.update(overflowed)
    assert whole.state() == resumed.state()


def test_below_the_smallest_scale_the_run_fails() -> None:
    scale = DynamicScale(initial=4.0, smallest=1.0).build()
    scale.update(True)
    scale.update(True)
    with pytest.raises(RunFailed, match="overflow fp16 even with the loss scale 1") as failed:
        scale.update(True)
    assert failed.value.where == "plan.precision"
    assert "bf16" in failed.value.remedy
    assert scale.value == 1.0


@pytest.mark.parametrize(
    "settings",
    [{"growth": 1.0}, {"backoff": 1.0}, {"backoff": 0.0}, {"interval": 0}, {"smallest": 0.0}, {"initial": 0.5}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelwrightError, match=next(iter(settings))):
        DynamicScale(**settings)
