from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.optim.schedules.building import built, remembering
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.schedules.plateau import Plateau

scores = st.lists(st.floats(0.01, 10).map(lambda score: round(score, 1)), min_size=1, max_size=60)


@given(
    scores=scores,
    better=st.sampled_from(["lower", "higher"]),
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    floor=st.sampled_from([0.0, 0.05]),
)
def test_it_falls_when_torchs_does(scores: list[float], better: Any, **settings: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    floor = settings.pop("floor")
    mode = "min" if better == "lower" else "max"
    theirs = ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, min_lr=floor, eps=0.0, **settings)
    ours = Plateau(factor=0.5, floor=floor, **settings).build()
    for score in scores:
        ours.observe(score, better)
        theirs.step(score)
        assert ours.factor(0, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_each_fall_is_told_and_the_floor_holds() -> None:
    schedule = Plateau(factor=0.5, patience=0, floor=0.3).build()
    events: list[Event] = []
    with listening(events.append):
        factors = []
        for _ in range(5):
            schedule.observe(1.0, "lower")
            factors.append(schedule.factor(0, 10))
    assert factors == [1, 0.5, 0.3, 0.3, 0.3]
    assert [event.kind for event in events] == ["learning-rate-lowered"] * 2


def test_scores_that_are_no_numbers_or_below_zero() -> None:
    schedule = Plateau(factor=0.5, patience=1, threshold=0.1).build()
    schedule.observe(math.nan, "lower")
    for score in (-1.0, -1.05, -1.2, -1.4):  # the second improves by less than a tenth
        schedule.observe(score, "lower")
        assert schedule.factor(0, 10) == 1
    schedule.observe(math.nan, "lower")
    schedule.observe(math.nan, "lower")
    assert schedule.factor(0, 10) == 0.5


@pytest.mark.parametrize(("better", "scores"), [("lower", (2.0, 1.0, 0.5)), ("higher", (0.5, 1.0, 2.0))])
def test_infinite_scores_are_no_measure_of_later_ones(better: Any, scores: tuple[float, ...]) -> None:
    schedule = Plateau(factor=0.5, patience=1).build()
    schedule.observe(math.inf, better)
    for score in scores:
        schedule.observe(score, better)
    assert schedule.factor(0, 10) == 1
    assert schedule.state()["best"] == scores[-1]


def test_the_warm_up_is_counted_in_steps() -> None:
    schedule = Plateau(factor=0.5, patience=0, warmup=4).build()
    assert [schedule.factor(step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    schedule.observe(1.0, "lower")
    schedule.observe(1.0, "lower")
    assert [schedule.factor(step, 10) for step in (0, 9)] == [0.125, 0.5]


def test_two_runs_of_one_configuration_do_not_share_scores() -> None:
    technique = Plateau(patience=0)
    first, second = technique.build(), technique.build()
    first.observe(1.0, "lower")
    first.observe(1.0, "lower")
    assert (first.factor(0, 1), second.factor(0, 1)) == (0.1, 1.0)


def test_what_is_pure_is_its_own_schedule() -> None:
    cosine = Cosine()
    assert built(cosine) is cosine
    assert remembering(cosine) is None
    assert remembering(None) is None
    schedule = built(Plateau())
    assert remembering(schedule) is schedule


@pytest.mark.parametrize(
    "settings",
    [{"factor": 1.0}, {"factor": 0.0}, {"patience": -1}, {"threshold": -1.0}, {"cooldown": -1}, {"floor": 2.0}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelwrightError, match=f"plateau: {next(iter(settings))}"):
        Plateau(**settings)
