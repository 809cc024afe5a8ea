"""Measuring a training whose steps are not alike."""

from __future__ import annotations

import time
from typing import Any

from tests.training.small import points, prepare
from torch import nn

from modelwright.optim.schedules.constant import Constant
from modelwright.optim.sgd import SGD
from modelwright.training.measure import _usual, measure
from modelwright.training.updating import Updating

SLOW = 0.2


class Slow(SGD):
    """Takes its time in every step."""

    def build(self, model: nn.Module) -> Any:
        optimizer: Any = super().build(model)
        step = optimizer.step

        def slowly() -> None:
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


def test_one_update_gives_the_median_step() -> None:
    assert _usual([1.0, 9.0, 2.0], 1) == 2.0
    assert _usual([1.0, 5.0, 1.0, 7.0], 2) == 3.5
