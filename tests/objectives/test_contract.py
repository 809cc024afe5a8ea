from __future__ import annotations

from modelwright.testing.metrics import MetricContract
from modelwright.testing.objectives import ObjectiveContract


class TestObjectives(ObjectiveContract):
    pass


class TestMetrics(MetricContract):
    pass
