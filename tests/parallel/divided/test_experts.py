"""Experts within divided tensors: what is divided, what is not, and that nothing is gathered in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.world import run_world

from modelwright.base.world import Mesh, arranged
from modelwright.graph import trace
from modelwright.models.experts import Experts
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.divided import Axes, Sequence, divided_along, dividing, full, piece, whole
from modelwright.parallel.tensor import Decision, derive

HERE = "tests.parallel.divided.test_experts"
SAMPLES, TIME, WIDTH, HIDDEN, EXPERTS = 2, 4, 6, 8, 4


def decision(hidden: int) -> Decision:
    with torch.device("meta"):
        model = GPT(vocabulary=64, width=256, heads=4, layers=1, experts=64, experts_per_token=2, hidden=hidden).build()
        batch = {name: torch.zeros(2, 64, dtype=torch.int64) for name in ("inputs", "targets")}
    objective = NextToken()
    return derive(trace(model, batch, forward=objective.forward, loss=objective.loss), 2)


def test_units_are_divided_and_the_router_is_not() -> None:
    """By its size alone the router would be."""
    found = decision(hidden=32)
    rows = {row.name.removeprefix("blocks.0.feed_forward."): row for row in found.rows}
    assert [rows[name].how for name in ("gate", "up", "down")] == [
        "dim 2: 16 of 32 units",
        "dim 2: 16 of 32 units",
        "dim 1: 16 of 32 units",
    ]
    assert rows["router.weight"].how == "the largest along it are chosen"


def test_units_that_do_not_divide_are_named() -> None:
    told = {row.name.rpartition(".")[2]: row.how for row in decision(hidden=33).whole}
    assert {told[name] for name in ("gate", "up", "down")} == {"33 units do not divide over 2"}


def layer() -> Experts:
    torch.manual_seed(3)
    return Experts(WIDTH, HIDDEN, experts=EXPERTS, chosen=2, balance=0.0).double()


def alone(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    one = layer()
    found = one(x)
    (found**2).sum().backward()
    return found.detach(), one.router.weight.grad


def in_pieces(mesh: Mesh, axis: str) -> dict[str, Any]:
    """A layer whose units, or whose positions, two ranks have: how far it is off, what travels, what has no rule."""
    x = torch.rand(SAMPLES, TIME, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected, gradient = alone(x)
    axes = Axes.of(arranged(mesh, {axis: 2}), sequence=Sequence("tensor", 1))
    own, rank = layer(), mesh.rank
    divisions = {parameter: whole(tuple(parameter.shape)) for parameter in own.parameters()}
    if axis == "tensor":
        for name, dim in (("gate", 2), ("up", 2), ("down", 1)):
            parameter = getattr(own, name)
            divisions[parameter] = divided_along(parameter.shape, dim, axis)
            parameter.data = parameter.data.chunk(2, dim)[rank].contiguous()
    with dividing(divisions, axes):
        found = own(piece(x, divided_along(x.shape, 1, axis), axes))
        given = full(found)
        (found**2).sum().backward()
    gaps = [given.detach() - expected, own.router.weight.grad - gradient]
    return {
        "gap": max(float(gap.abs().max()) for gap in gaps),
        "sent": axes.sent[axis],
        "unknown": sorted(axes.unknown),
    }


@pytest.mark.parametrize("axis", ["tensor", "context"])
def test_only_tokens_and_gradients_of_the_router_travel(axis: str) -> None:
    number = torch.float64.itemsize
    # Along tensor the input is gathered, sums are scattered, and both back; the output is gathered to be compared.
    tokens = SAMPLES * TIME * WIDTH * number // 2
    weights = (EXPERTS * WIDTH + (0 if axis == "tensor" else 3 * EXPERTS * WIDTH * HIDDEN)) * number
    for rank in run_world(f"{HERE}:in_pieces", 2, axis=axis):
        assert rank["gap"] < 1e-13
        assert rank["unknown"] == []
        assert rank["sent"] <= (5 * tokens if axis == "tensor" else tokens) + weights + 2 * number
