"""What makes no sense is refused before a process starts, in words."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.base.axes import ordered, resized
from modelwright.base.errors import Mistakes, ModelwrightError
from modelwright.parallel.products import Product, check_product
from modelwright.planning.request import PlanRequest


def check(sizes: dict[str, int], **fields: Any) -> None:
    check_product(Product(sizes=ordered(sizes), **{"batch": 16, "micro_batch": 2, **fields}))


@pytest.mark.parametrize(
    ("sizes", "fields", "told"),
    [
        ({"pipeline": 2, "replicate": 3}, {"micro_batch": 1}, "a batch of 16 is not shared evenly by 3"),
        ({"pipeline": 2}, {"holes": True}, "fewer samples than the batch"),
        ({"pipeline": 2}, {"micro_batch": 3}, "micro-batches of 3 do not divide"),
        ({"pipeline": 2}, {"micro_batch": 16}, "needs at least 2 micro-batches"),
        ({"tensor": 2}, {"compile": True}, "blocks are not compiled in the layout tensor"),
        ({"context": 2}, {"precision": "fp8"}, "fp8 scales a tensor by its largest number, and in the layout context"),
        ({"shard": 2, "tensor": 2}, {"precision": "fp8"}, "in the layout tensor workers hold pieces of it"),
        ({"replicate": 2, "shard": 2}, {"exact": False}, "compressed gradients need every replica on one worker"),
        ({"shard": 2}, {"sees": "model"}, "the optimizer has to see all parameters together"),
        ({"pipeline": 2}, {"sees": "model"}, "all parameters together"),
        ({"pipeline": 2}, {"updates": 2}, "several updates are not combined with the layout pipeline"),
        ({"shard": 2}, {"offload": "moments"}, "moments are offloaded by the layout itself"),
    ],
)
def test_nonsense_is_refused_with_its_reason(sizes: dict[str, int], fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelwrightError, match=told) as caught:
        check(sizes, **fields)
    assert caught.value.where and caught.value.remedy


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(Mistakes) as caught:
        check({"tensor": 2}, compile=True, precision="fp8")
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize(
    "sizes",
    [
        {"replicate": 2, "shard": 2, "tensor": 2},
        {"pipeline": 2, "tensor": 2, "context": 2},
        {"replicate": 4, "expert": 2},
        {"expert": 2, "tensor": 2, "context": 2},
        {"tensor": 1, "shard": 1},
    ],
)
def test_what_makes_sense_passes(sizes: dict[str, int]) -> None:
    check(sizes)
    check(sizes, sees="tensors", updates=1 if "pipeline" in sizes else 2)
    check({"replicate": 3}, compile=True, exact=False, sees="model", updates=2, holes=True, precision="fp8")


def test_replicas_are_what_is_left_over() -> None:
    request = PlanRequest(layout={"tensor": 2, "shard": {"size": 2, "stage": 2}})
    assert request.sizes == {"shard": 2, "tensor": 2}
    assert request.settings == {"shard": {"stage": 2}}
    assert request.sized(8) == {"replicate": 2, "shard": 2, "tensor": 2}
    assert PlanRequest().sized(3) == {"replicate": 3}
    with pytest.raises(ModelwrightError, match="6 workers cannot be arranged as shard 2 x tensor 2"):
        request.sized(6)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ({"tensr": 2}, "no axis 'tensr'"),
        ({"tensor": 0}, "'0' is no number of ranks"),
        ({"tensor": {"size": 2, "sequnce": True}}, "has no setting 'sequnce'"),
        ({"replicate": {"size": 2, "exchange": "ring"}}, "replicate has no settings"),
        ({"shard": {"size": 2, "stage": 4}}, "stage is 1, 2 or 3"),
    ],
)
def test_a_request_is_checked_at_once(layout: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelwrightError, match=told):
        PlanRequest(layout=layout)


def test_another_number_of_workers_means_other_replicas() -> None:
    layout = {"replicate": 4, "tensor": 2}
    assert resized(layout, 6) == {"replicate": 3, "tensor": 2}
    with pytest.raises(ModelwrightError, match="5 workers make up no whole number of replicas of 2"):
        resized(layout, 5)
