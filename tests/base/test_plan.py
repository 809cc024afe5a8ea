from __future__ import annotations

import json

import pytest

from modelwright.base.detect import cores, detect, memory_bytes
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan, Prediction

PREDICTION = Prediction(
    step_seconds=0.1,
    step_seconds_low=0.09,
    step_seconds_high=0.12,
    peak_bytes=10**9,
    samples_per_second=320.0,
    source="measured: 3 steps",
)


@pytest.mark.parametrize("prediction", [None, PREDICTION])
def test_a_plan_comes_back_from_json(prediction: Prediction | None) -> None:
    plan = Plan(workers=2, layout={"replicate": 2}, micro_batch=8, steps=100, prediction=prediction)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_from_the_future_and_no_plan_are_refused() -> None:
    values = Plan(micro_batch=8, steps=100).to_json()
    with pytest.raises(ModelwrightError, match="newer"):
        Plan.from_json({**values, "format": 99})
    with pytest.raises(ModelwrightError, match="not a plan"):
        Plan.from_json({**values, "wrokers": 2})
    with pytest.raises(ModelwrightError, match="not a plan"):
        Plan.from_json([])


def test_this_machine_has_cores_and_memory() -> None:
    cluster = detect()
    assert 1 <= cluster.cores == cores()
    assert 10**8 < cluster.memory_bytes == memory_bytes()
    assert cluster.device_name
