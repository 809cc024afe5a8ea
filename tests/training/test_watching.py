"""What can be wished to be seen, and wishes that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.training.watching import Watch


def test_by_default_only_what_costs_next_to_nothing_is_on() -> None:
    watch = Watch()
    assert watch.profiled == frozenset() and watch.gradients is None
    assert watch.spikes and watch.hang == 600.0 and watch.hang_action == "warn"


@pytest.mark.parametrize(("profile", "steps"), [(20, {20}), ((3, 40), {3, 40}), (None, set())])
def test_one_step_or_several_are_profiled(profile: Any, steps: set[int]) -> None:
    assert Watch(profile=profile).profiled == steps


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"profile": 0}, "profile"),
        ({"profile": (5, -1)}, "profile"),
        ({"gradients": 0}, "gradients"),
        ({"depth": 0}, "depth"),
        ({"diagnose": -1}, "diagnose"),
        ({"hang": 0.0}, "hang"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_with_a_remedy(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelwrightError) as told:
        Watch(**fields)
    assert told.value.where == where and told.value.remedy
