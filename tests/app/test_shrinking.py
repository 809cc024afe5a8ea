"""Of the workers that are left as many go on as make up whole replicas that can share the batch."""

from __future__ import annotations

import pytest

from modelwright.app.shrinking import smaller, usable
from modelwright.base.axes import data_ranks
from modelwright.base.plan import Plan


def planned(micro_batch: int = 2, **layout: int) -> Plan:
    workers = 1
    for size in layout.values():
        workers *= size
    return Plan(workers=workers, layout=layout, micro_batch=micro_batch, steps=9)


@pytest.mark.parametrize(
    ("layout", "left", "batch", "expected", "reason"),
    [
        ({"replicate": 4}, 3, 8, 3, ""),
        ({"replicate": 4, "tensor": 2}, 7, 9, 6, "7 workers make up no whole number of replicas of 2 (tensor 2)"),
        ({"replicate": 4, "pipeline": 2}, 6, 8, 4, "a batch of 8 is not shared evenly by 3 workers"),
        ({"replicate": 3, "pipeline": 2}, 5, 9, 2, "5 workers make up no whole number of replicas"),
        ({"replicate": 3, "pipeline": 2}, 4, 9, 2, "a batch of 9 is not shared evenly by 2 workers"),
        ({"replicate": 2, "shard": 2, "pipeline": 2}, 4, 8, 4, ""),
        ({"shard": 2}, 1, 8, 0, "1 worker makes up no whole number of replicas of 2 (shard 2)"),
    ],
)
def test_the_next_size_that_works(layout: dict[str, int], left: int, batch: int, expected: int, reason: str) -> None:
    found, hindrance = usable(planned(**layout), left, batch)
    assert found == expected and hindrance.startswith(reason) and bool(hindrance) == bool(reason)


def test_micro_batches_of_a_smaller_world_stay_alike() -> None:
    whole = planned(4, replicate=3, pipeline=2)  # 36: 12 each, and in two replicas 18
    found = smaller(whole, 4, 36)
    assert found.layout == {"pipeline": 2, "replicate": 2} and found.micro_batch == 3
    assert 36 // data_ranks(found.layout) % found.micro_batch == 0
    assert smaller(whole, 6, 36) is whole
