"""Gradient norms by module against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from tests.training.small import network
from torch import nn

from modelwright.base import phases
from modelwright.base.phases import Phase
from modelwright.optim.clipping import global_norm
from modelwright.training.seeing.gradients import GradientNorms, group_of, module_norms


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.ModuleDict({"blocks": nn.ModuleList(network() for _ in range(2)), "head": nn.Linear(5, 2).double()})
    made.register_parameter("scale", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    for parameter in made.parameters():
        parameter.grad = torch.randn_like(parameter)
    return made


def squares(made: nn.Module, prefix: str) -> float:
    return sum(float(p.grad.square().sum()) for name, p in made.named_parameters() if name.startswith(prefix))


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (1, ["(model)", "blocks", "head"]),
        (2, ["(model)", "blocks.0", "blocks.1", "head"]),
        (3, ["(model)", "blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2", "head"]),
    ],
)
def test_norms_are_those_of_the_modules_parameters(depth: int, names: list[str]) -> None:
    made = model()
    norms = module_norms(made, depth=depth)
    assert sorted(norms) == names
    for name, norm in norms.items():
        expected = math.sqrt(squares(made, "scale" if name == "(model)" else f"{name}."))
        assert float(norm) == pytest.approx(expected, rel=1e-12)
    whole = float(global_norm([parameter.grad for parameter in made.parameters()]))
    assert math.sqrt(sum(float(norm) ** 2 for norm in norms.values())) == pytest.approx(whole, rel=1e-12)


def test_what_has_no_gradient_has_no_norm() -> None:
    made = model()
    made["head"].weight.grad = made["head"].bias.grad = None
    assert "head" not in module_norms(made)


def test_rows_come_once_for_every_so_many_steps() -> None:
    made = model()
    norms = GradientNorms(made, 3, depth=1, scale=lambda: 4.0)
    rows = []
    with phases.watching(norms):
        for step in range(1, 8):
            phases.enter(Phase.DATA, step)
            phases.enter(Phase.BACKWARD)
            phases.enter(Phase.OPTIMIZER)
            rows += norms.rows()
    assert [row["step"] for row in rows] == [3, 6] and norms.rows(all_of_them=True) == []
    expected = {f"gradient_norm/{name}": float(norm) / 4 for name, norm in module_norms(made, depth=1).items()}
    assert rows[0] == {"kind": "gradients", "step": 3} | expected


def test_names_are_cut_at_the_module() -> None:
    assert group_of("weight", 2) == "(model)"
    assert group_of("blocks.0.attention.output.weight", 2) == "blocks.0"
    assert group_of("blocks.0.attention.output.weight", 9) == "blocks.0.attention.output"
