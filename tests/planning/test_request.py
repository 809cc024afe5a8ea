"""What is asked of the planner is checked at once; a mistake names its axis and its setting."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.planning.request import PlanRequest


@pytest.mark.parametrize(
    ("layout", "where", "words", "remedy"),
    [
        ({"tensor": 0}, "plan.layout.tensor", "no number of ranks", "1 or more"),
        ({"shard": {"stage": 2}}, "plan.layout.shard", "over how many workers", "plan.layout.shard.size=2"),
        ({"shard": {"size": 2, "stage": 4}}, "plan.layout.shard.stage", "1, 2 or 3", "2 moments and gradients"),
        ({"shard": {"size": 2, "stag": 2}}, "plan.layout.shard.stag", "no setting 'stag'", "did you mean 'stage'?"),
        ({"shard": {"size": 2, "prefetch": -1}}, "plan.layout.shard.prefetch", "at least 0", "leave it out"),
        ({"context": {"size": 2, "attention": "x"}}, "plan.layout.context.attention", "ring or", "ring sends"),
        ({"expert": {"size": 2, "to": 3}}, "plan.layout.expert.to", "no setting 'to'", "leave it out"),
        ({"replicate": {"size": 2, "a": 1}}, "plan.layout.replicate", "no settings", "plan.exchange"),
    ],
)
def test_a_mistake_in_a_layout_names_its_place_and_what_to_do(
    layout: dict[str, Any], where: str, words: str, remedy: str
) -> None:
    with pytest.raises(ModelwrightError) as caught:
        PlanRequest(layout=layout)
    error = caught.value
    assert error.where == where and words in error.what and remedy in error.remedy


def test_one_worker_is_not_two() -> None:
    with pytest.raises(ModelwrightError, match="1 worker cannot be arranged as tensor 2"):
        PlanRequest(workers=1, layout={"tensor": 2})


def test_settings_stay_beside_the_size() -> None:
    request = PlanRequest(layout={"shard": {"size": 2, "stage": 1}, "tensor": 2})
    assert request.sizes == {"shard": 2, "tensor": 2} and request.settings == {"shard": {"stage": 1}}
