"""What another number of steps makes of schedules, means and budgets; each judged by a longer run's own numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.command import DIGITS, yaml
from tests.training.small import heard, points

from modelwright.app.extending import LEAP, Place, check_extension, find_leaps, seam, total_steps
from modelwright.base.errors import ModelwrightError
from modelwright.data.memory import InMemory
from modelwright.recipe import Recipe, load_recipe
from modelwright.runs import Run

RUN: Any = None  # asked for the duration of a step only
DATA = InMemory(points(samples=60))


def recipe(**fields: str) -> Recipe:
    return load_recipe(yaml(DIGITS | {"batch": "6"} | fields))


def at(step: int, **parts: Any) -> Place:
    return Place(step=step, samples=6 * step, seconds=1.0 * step, parts=parts)


@pytest.mark.parametrize(
    ("schedule", "done", "exact"),
    [
        ("constant", 100, True),
        ("{use: wsd, warmup: 5, decay: 20}", 80, True),
        ("{use: wsd, warmup: 5, decay: 20}", 81, True),  # the first step of the fall, from 80 on, is done at its top
        ("{use: wsd, warmup: 5, decay: 20}", 82, False),
        ("{use: wsd, warmup: 0.05, decay: 20}", 80, False),  # a warm-up in parts of the whole
        ("{use: cosine, warmup: 0}", 30, False),
        ("cosine", 0, True),
    ],
)
def test_whether_the_longer_run_would_have_been_the_same(schedule: str, done: int, exact: bool) -> None:
    asked = recipe(schedule=schedule)
    assert (find_leaps(asked, done, 100, 200) == []) is exact
    with heard() as events:
        check_extension(asked, at(done), 100, 200, "mine")
    assert [(event.kind, event.details["exact"]) for event in events] == [("extended", exact)]
    assert events[0].level == ("info" if exact else "warning")


@pytest.mark.parametrize("schedule", ["{use: cosine, warmup: 0}", "{use: linear, warmup: 0}", "{use: wsd, warmup: 0}"])
def test_a_fall_that_has_ended_is_not_begun_again(schedule: str) -> None:
    with pytest.raises(ModelwrightError, match="the learning rate would leap") as told:
        check_extension(recipe(schedule=schedule), at(100), 100, 200, "mine")
    assert "branch mine budget.steps=200" in told.value.remedy


def test_where_a_leap_begins() -> None:
    asked = recipe(schedule="{use: cosine, warmup: 0}")
    for done in range(2, 101):
        (leap,) = find_leaps(asked, done, 100, 200)
        schedule: Any = asked.schedule
        assert leap.before == schedule.factor(done - 1, 100)
        assert leap.after == schedule.factor(done, 200)
        assert leap.high == (leap.after > LEAP * leap.before)
    assert not find_leaps(asked, 50, 100, 200)[0].high
    assert find_leaps(asked, 90, 100, 200)[0].high


def test_schedules_of_other_settings_are_told_but_hinder_nothing() -> None:
    asked = recipe(schedule="constant", weight_decay_schedule="{use: linear, warmup: 0}", optimizer="sgd")
    (leap,) = find_leaps(asked, 100, 100, 200)
    assert (leap.where, leap.rate, leap.high) == ("weight_decay_schedule", False, False)
    check_extension(asked, at(100), 100, 200, "mine")


@pytest.mark.parametrize(("start", "done", "refused"), [("0.75", 80, True), ("0.75", 70, False), ("75", 80, False)])
def test_a_mean_that_has_begun(start: str, done: int, refused: bool) -> None:
    asked = recipe(schedule="constant", averaging=f"{{use: mean, start: {start}}}")
    if not refused:
        return check_extension(asked, at(done), 100, 200, "mine")
    with pytest.raises(ModelwrightError, match="begins after step 75 of 100, but after step 150 of 200"):
        check_extension(asked, at(done), 100, 200, "mine")


def test_a_run_that_has_stopped_early() -> None:
    asked = recipe(schedule="constant", evaluation="{every: 5, patience: 3}")
    check_extension(asked, at(50, patience={"without_gain": 2}), 100, 200, "mine")
    with pytest.raises(ModelwrightError, match="had not gained in 3 evaluations"):
        check_extension(asked, at(50, patience={"without_gain": 3}), 100, 200, "mine")


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("{steps: 70}", 70), ("{samples: 100}", 17), ("{epochs: 2}", 20), ("{epochs: 1.5}", 15)],
)
def test_budgets_count_from_the_beginning(budget: str, steps: int) -> None:
    assert total_steps(recipe(budget=budget), at(10), RUN, lambda: DATA) == steps


def test_with_another_batch_what_is_left_is_shared_out_anew() -> None:
    """60 of 100 samples are done in 10 steps of 6; in steps of 20 the other 40 are two."""
    asked = recipe(budget="{samples: 100}", batch="20")
    assert total_steps(asked, at(10), RUN, lambda: DATA, otherwise=True) == 12
    assert total_steps(asked, replace(at(10), samples=0), RUN, lambda: DATA, otherwise=True) == 15


def test_a_budget_of_time_goes_by_the_steps_so_far(tmp_path: Any) -> None:
    run = Run.create(tmp_path, "mine", "train")
    with pytest.raises(ModelwrightError, match="has not recorded one"):
        total_steps(recipe(budget="{time: 20s}"), at(10), run, lambda: DATA)
    run.update(summary={"step_seconds": 0.5})
    assert total_steps(recipe(budget="{time: 20s}"), at(10), run, lambda: DATA) == 30  # 10 s are used


def test_a_budget_that_is_used_up() -> None:
    with pytest.raises(ModelwrightError, match="10 steps are done, and this budget ends at 10"):
        total_steps(recipe(budget="{steps: 10}"), at(10), RUN, lambda: DATA)


def test_the_seam_between_two_recipes() -> None:
    fallen, constant = recipe(schedule="{use: linear, warmup: 0}"), recipe(schedule="constant")
    leap = seam(fallen, constant, 100, 100, 200)
    assert leap is not None and leap.after == 1.0 and leap.before < 0.5
    assert seam(constant, fallen, 100, 100, 200) is None
    assert seam(fallen, constant, 0, 100, 200) is None
