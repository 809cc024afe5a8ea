"""Measuring a training whose steps are not alike."""

from __future__ import annotations

import time
from itertools import count
from typing import Any, ClassVar

from tests.training.small import points, prepare
from torch import nn

from modelwright.optim.schedules.constant import Constant
from modelwright.optim.sgd import SGD
from modelwright.training.measure import _usual, measure
from modelwright.training.updating import Updating

SLOW = 0.2


class Slow(SGD):
    """Takes its time in every step, or in the second one only."""

    second: ClassVar[bool] = False

    def build(self, model: nn.Module) -> Any:
        optimizer: Any = super().build(model)
        step, taken = optimizer.step, count(1)

        def slowly() -> None:
            if not self.second or next(taken) == 2:
                time.sleep(SLOW)
            step()

        optimizer.step = slowly
        return optimizer


def test_a_step_is_what_a_round_of_updates_takes_on_average() -> None:
    updates = {
        "often": Updating(optimizer=SGD(lr=0.1), schedule=Constant(), parameters=("0",)),
        "rare": Updating(optimizer=Slow(lr=0.1), schedule=Constant(), parameters=("2",), every=4),
    }
    found = measure(prepare(points(), updates=updates), seconds=0.0, limit=SLOW / 10)
    assert found.steps == 4
    assert SLOW / 4 < found.step_seconds < SLOW  # neither the usual step, which is quick, nor the slow one


class SlowAtFirst(Slow):
    second = True


def test_one_slow_step_does_not_settle_a_quick_plan() -> None:
    found = measure(prepare(points(), optimizer=SlowAtFirst(lr=0.1)), seconds=2.0, limit=SLOW / 2)
    assert found.high >= SLOW
    assert found.steps > 3  # with a limit on each step it would have been the slow one alone


def test_slow_steps_settle_a_plan_early() -> None:
    found = measure(prepare(points(), optimizer=Slow(lr=0.1)), seconds=2.0, limit=SLOW / 2)
    assert found.steps < 2.0 / SLOW / 2


def test_one_update_gives_the_median_step() -> None:
    assert _usual([1.0, 9.0, 2.0], 1) == 2.0
    assert _usual([1.0, 5.0, 1.0, 7.0], 2) == 3.5
