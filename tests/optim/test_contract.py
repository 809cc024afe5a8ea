from __future__ import annotations

from modelwright.testing.averages import AverageContract
from modelwright.testing.optimizers import OptimizerContract
from modelwright.testing.schedules import ScheduleContract


class TestOptimizers(OptimizerContract):
    pass


class TestSchedules(ScheduleContract):
    pass


class TestAverages(AverageContract):
    pass
