"""What code sees of pieces, and what it is told where they are computed whole."""

from __future__ import annotations

from typing import Any

import torch
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.parallel.divided import Axes, Divided, DryAxes, divided_along, dividing, full, piece, whole

HERE = "tests.parallel.divided.test_wrapping"


def axes_of_two() -> DryAxes:
    return DryAxes.sized({"tensor": 2, "context": 1})


def test_a_parameter_that_carries_its_division_is_seen_whole() -> None:
    axes, parameter = axes_of_two(), nn.Parameter(torch.empty(4, 3, device="meta"))
    parameter._division = divided_along((8, 3), 0, "tensor")  # type: ignore[attr-defined]
    with dividing({}, axes):
        assert parameter.shape == (8, 3) and len(parameter) == 8 and parameter.requires_grad and parameter.is_leaf
        out = torch.ones(2, 3, device="meta") @ parameter.t()
        assert isinstance(out, Divided) and out.shape == (2, 8) and out.local.shape == (2, 4)
        out.sum().backward()
    assert parameter.shape == (4, 3) and parameter.grad is not None and parameter.grad.shape == (4, 3)
    assert not isinstance(parameter.grad, Divided)


def test_a_sum_is_taken_once() -> None:
    axes = axes_of_two()
    rows = piece(torch.ones(8, 6, device="meta"), divided_along((8, 6), 0, "tensor"), axes)
    total = rows.sum(0)
    assert isinstance(total, Divided) and total.pending == {"tensor"}
    again = total.detach()
    assert (total.exp() + again.exp() + total.sin()).shape == (6,)
    assert axes.sent["tensor"] == 6 * 4


def test_values_are_made_whole_wherever_they_are() -> None:
    part = piece(torch.ones(8, 6, device="meta"), divided_along((8, 6), 0, "tensor"), axes_of_two())
    found = full({"a": [part, 1], "b": (part, None)})
    assert not isinstance(found["a"][0], Divided) and found["b"][0].shape == (8, 6) and found["a"][1] == 1


def test_an_operator_without_a_rule_is_named_once() -> None:
    part = piece(torch.ones(8, 6, device="meta"), divided_along((8, 6), 0, "tensor"), axes_of_two())
    events: list[Event] = []
    with listening(events.append):
        assert not isinstance(torch.roll(part, 1, 0), Divided)
        torch.roll(part, 2, 0)
    assert [event.details["operator"] for event in events] == ["aten.roll.default"]


class Scaled(torch.autograd.Function):
    """What users write: no mode is told of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return (x @ weight).sin()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        inner = gradients[0] * (x @ weight).cos()
        return inner @ weight.t(), (x.flatten(0, 1).t() @ inner.flatten(0, 1))


def functions(mesh: Mesh, deferred: list[str]) -> float:
    """How far the gradients are from those of one process: of one weight that is divided, and one that is not."""
    make = torch.Generator().manual_seed(0)
    x, first, second = (torch.randn(s, generator=make, dtype=torch.float64) for s in ((2, 4, 6), (6, 6), (6, 6)))
    wanted = [weight.clone().requires_grad_() for weight in (first, second)]
    (Scaled.apply(Scaled.apply(x, wanted[0]), wanted[1]) * wanted[1][0]).sum().backward()
    axes = Axes.of(mesh)
    rank = mesh.axes["tensor"].rank
    own = [first.chunk(2, 1)[rank].clone().requires_grad_(), second.clone().requires_grad_()]
    divisions = {own[0]: divided_along((6, 6), 1, "tensor"), own[1]: whole((6, 6))}
    with dividing(divisions, axes, deferred=deferred):
        given = piece(x, divided_along((2, 4, 6), 1, "context"), axes)
        full((Scaled.apply(Scaled.apply(given, own[0]), own[1]) * own[1][0]).sum()).backward()
    gradients = [weight.grad for weight in own]
    for axis in deferred:
        gradients = [axes.groups[axis].all_reduce(gradient) for gradient in gradients]
    expected = [wanted[0].grad.chunk(2, 1)[rank], wanted[1].grad]
    return max(float((mine - other).abs().max()) for mine, other in zip(gradients, expected, strict=True))


def all_functions(mesh: Mesh) -> list[float]:
    before = torch.autograd.Function.__dict__["apply"]
    found = [functions(mesh, []), functions(mesh, ["context"])]
    assert torch.autograd.Function.__dict__["apply"] is before
    return found


def test_functions_of_users_see_whole_parameters() -> None:
    for found in run_world(f"{HERE}:all_functions", 4, layout={"context": 2, "tensor": 2}):
        assert max(found) < 1e-12
