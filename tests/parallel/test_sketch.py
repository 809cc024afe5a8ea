"""What is foretold of a layout is what its ranks send: every byte, counted at torch's own collectives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh, arranged
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim.sgd import SGD
from modelwright.parallel.layouts.context import Context
from modelwright.parallel.layouts.shard import Shard
from modelwright.parallel.layouts.tensor import Tensor
from modelwright.parallel.sketch import Sketch, sketch
from modelwright.parallel.traffic import Traffic, along
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training

HERE = "tests.parallel.test_sketch"
TECHNIQUES = {"shard": Shard, "tensor": Tensor, "context": Context}
BATCH, TIME, VOCABULARY, MICRO_BATCH = 8, 8, 24, 2
SCALARS, FLAGS = 48, 512  # bytes of counts, losses and norms; of these with flags of use
ON_TWO: list[tuple[dict[str, int], dict[str, Any]]] = [
    ({"replicate": 2}, {}),
    *(({"shard": 2}, {"shard": {"stage": stage}}) for stage in (1, 2, 3)),
    ({"tensor": 2}, {}),
    ({"tensor": 2}, {"tensor": {"sequence": False}}),
    ({"context": 2}, {}),
    ({"context": 2}, {"context": {"attention": "all-gather"}}),
]
ON_FOUR: list[tuple[dict[str, int], dict[str, Any]]] = [
    ({"replicate": 4}, {}),
    ({"shard": 4}, {}),
    ({"context": 4}, {}),
    ({"replicate": 2, "tensor": 2}, {"tensor": {"sequence": False}}),
    ({"replicate": 2, "shard": 2}, {}),
]


def gpt() -> torch.nn.Module:
    return GPT(vocabulary=VOCABULARY, width=16, heads=4, layers=2).build()


def prepared(mesh: Mesh, layout: dict[str, int], settings: dict[str, Any]) -> Prepared:
    tokens = torch.arange(4 * BATCH * (TIME + 1)).view(-1, TIME + 1) % VOCABULARY
    data = InMemory({"inputs": tokens[:, :-1], "targets": tokens[:, 1:].clone()})
    training = Training(
        model=gpt(),
        data=Splits(train=data, held_out=None),
        objective=NextToken(),
        optimizer=SGD(lr=0.1),
        batch=BATCH,
        seed=3,
        budget=Budget(steps=2),
    )
    plan = Plan(workers=mesh.size, layout=layout, layouts=settings, micro_batch=MICRO_BATCH, precision="fp32", steps=2)
    return Prepared(training, plan, mesh)


def sent(mesh: Mesh, cases: list[tuple[dict[str, int], dict[str, Any]]]) -> list[dict[str, float]]:
    """Bytes of the second step by kind and axis, bookkeeping left out: sums along all axes, of a few float64."""
    found = []
    for layout, settings in cases:
        places = arranged(mesh, layout)
        made = prepared(places, layout, settings)
        with Traffic() as traffic:
            steps = made.steps(lambda: False)
            next(steps)
            before = len(traffic.sent)
            next(steps)
        sums: dict[str, float] = {}
        for one in traffic.sent[before:]:
            if one.kind != "all-reduce" or one.bytes > (SCALARS if "tensor" in layout else FLAGS):
                key = f"{one.kind} {'+'.join(along(places, one.members))}"
                sums[key] = sums.get(key, 0.0) + one.bytes
        found.append(sums)
    return found


def foretold(layout: dict[str, int], settings: dict[str, Any]) -> Sketch:
    shares = layout.get("replicate", 1) * layout.get("shard", 1)
    rounds = BATCH // shares // min(MICRO_BATCH, BATCH // shares)
    samples = min(MICRO_BATCH, BATCH // shares)
    example = {name: torch.empty(samples, TIME, dtype=torch.int64, device="meta") for name in ("inputs", "targets")}
    layouts = {axis: TECHNIQUES[axis](**values) for axis, values in settings.items()}
    return sketch(gpt(), NextToken(), example, layout, layouts, rounds)


@pytest.mark.parametrize(("ranks", "cases"), [(2, ON_TWO), (4, ON_FOUR)], ids=["two", "four"])
def test_every_byte_is_foretold(ranks: int, cases: list[Any]) -> None:
    told = run_world(f"{HERE}:sent", ranks, cases=cases)
    for number, (layout, settings) in enumerate(cases):
        expected = foretold(layout, settings).sent
        kinds = {key for rank in told for key in rank[number]}
        counted = {key: sum(rank[number].get(key, 0.0) for rank in told) / ranks for key in kinds}
        assert counted == pytest.approx(dict(expected), abs=1e-6), (layout, settings)


def test_what_is_sent_depends_on_settings() -> None:
    one, three = (foretold({"shard": 2}, {"shard": {"stage": stage}}) for stage in (1, 3))
    assert one.total < three.total
    assert one.parameters == three.parameters
    assert one.gathered > three.gathered
    assert foretold({"shard": 4}, {}).parameters < one.parameters


def test_an_axis_of_which_nothing_is_foretold_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="no sketch of the axis pipeline"):
        foretold({"pipeline": 2}, {})
