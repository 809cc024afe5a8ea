"""The exchange that is wished for, from a recipe to the plan on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.cluster import Cluster
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.base.written import chosen
from modelwright.parallel import EXCHANGES
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.exchanges.compressions.powersgd import PowerSGD
from modelwright.parallel.exchanges.ring import Ring
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import default_plan
from modelwright.recipe import load_recipe
from modelwright.recipe.explain import to_yaml

CPU = Cluster(device_name="made up", cores=4, memory_bytes=2**32)


def planned(request: PlanRequest) -> Plan:
    return default_plan(request, CPU, batch=8, kernels=())


@pytest.mark.parametrize(
    ("text", "technique", "plain"),
    [
        ("", AllReduce(), "all-reduce"),
        ("plan: {exchange: ring}", Ring(), "ring"),
        (
            "plan: {exchange: {compression: powersgd}}",
            AllReduce(compression=PowerSGD()),
            {"use": "all-reduce", "compression": "powersgd"},
        ),
        (
            "plan: {exchange: {use: ring, bucket: 1MB, compression: {use: powersgd, rank: 2}}}",
            Ring(bucket=10**6, compression=PowerSGD(rank=2)),
            {"use": "ring", "bucket": 10**6, "compression": {"use": "powersgd", "rank": 2}},
        ),
    ],
)
def test_a_recipe_is_planned_as_it_asks(text: str, technique: object, plain: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(BODY + text)
    recipe = load_recipe(path)
    assert recipe.plan.exchange == technique
    plan = planned(recipe.plan)
    assert plan.exchange == plain
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert chosen(again.exchange, EXCHANGES) == technique
    (tmp_path / "resolved.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


BODY = """
model: {use: mlp}
data: {use: sklearn, name: digits}
objective: {use: classification}
optimizer: {use: sgd, lr: 0.1}
batch: 8
budget: {steps: 5}
"""


def test_python_may_name_it() -> None:
    assert planned(PlanRequest(exchange="central")).exchange == "central"
    compressed = {"use": "ring", "compression": "bf16"}
    assert planned(PlanRequest(exchange=compressed)).exchange == compressed
    assert planned(PlanRequest(exchange=Ring(bucket=100))).exchange == {"use": "ring", "bucket": 100}
    with pytest.raises(ModelwrightError, match="no exchange named 'star'"):
        PlanRequest(exchange="star")


def test_plans_of_before_say_a_name() -> None:
    plan = Plan.from_json({"format": 1, "micro_batch": 2, "steps": 3, "exchange": "all-reduce"})
    assert chosen(plan.exchange, EXCHANGES) == AllReduce()


def test_a_recipe_with_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(BODY + "plan: {exchange: {use: ring, compression: bf61}}")
    with pytest.raises(ModelwrightError, match="there is no compression named 'bf61'"):
        load_recipe(path)
