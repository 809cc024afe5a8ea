"""Numbers that what was seen does not define."""

from __future__ import annotations

import math

from modelwright.base.events import emit


def undefined(metric: str, reason: str) -> float:
    """NaN, and an event that says why: a run goes on, and no number pretends to be a result."""
    emit("metric-undefined", f"the metric {metric} is not defined: {reason}", level="warning", metric=metric)
    return math.nan
