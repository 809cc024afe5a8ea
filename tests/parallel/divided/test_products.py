"""Blocks of two matrices, divided: the same outputs and gradients as in one process, and bytes as theory says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.world import Mesh
from modelwright.parallel.divided import Axes, Division, DryAxes, divided_along, dividing, full, whole
from modelwright.parallel.divided.registry import RULES
from modelwright.parallel.divided.value import plain, redistribute

ADDMM = torch.ops.aten.addmm.default
BYTES = 2 * 6 * 4 * 8
HERE = "tests.parallel.divided.test_products"


def block(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    hidden = functional.gelu(functional.linear(x, parameters["up"], parameters["up_bias"]))
    return x + functional.linear(hidden, parameters["down"], parameters["down_bias"])


def make(seed: int = 0) -> tuple[Tensor, dict[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"up": (8, 4), "up_bias": (8,), "down": (4, 8), "down_bias": (4,)}
    x = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    return x, {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in shapes.items()
    }


PLACES = {"up": 0, "up_bias": 0, "down": 1, "down_bias": None}


def division_of(name: str, parameter: Tensor) -> Division:
    place = PLACES[name]
    return whole(tuple(parameter.shape)) if place is None else divided_along(parameter.shape, place, "tensor")


def local(tensor: Tensor, name: str, axes: Axes) -> Tensor:
    return redistribute(plain(tensor, axes), axes.known(division_of(name, tensor))).local


def step(x: Tensor, pieces: dict[str, nn.Parameter], divisions: dict[str, Division], axes: Axes) -> tuple[Tensor, int]:
    """One pass there and back; the output, and the bytes sent on the way there."""
    x = x.clone().requires_grad_()
    with dividing({pieces[name]: divisions[name] for name in pieces}, axes):
        assert pieces["up"].shape == (8, 4) and len(pieces["up"]) == 8 and pieces["down"].size(1) == 8
        out = full(block(x * 1.0, pieces))
        forward = axes.sent["tensor"]
        out.square().sum().backward()
    return out, forward


def column_row(mesh: Mesh, broken: bool = False) -> dict[str, Any]:
    x, parameters = make()
    expected = block(x, parameters)
    expected.square().sum().backward()
    axes = Axes.of(mesh)
    divisions = {name: division_of(name, parameter) for name, parameter in parameters.items()}
    pieces = {name: nn.Parameter(local(value.detach(), name, axes).clone()) for name, value in parameters.items()}
    if broken:
        right = RULES[ADDMM]
        RULES[ADDMM] = lambda *args, **kwargs: (found := right(*args, **kwargs)).like(found.local, pending=frozenset())
    out, forward = step(x, pieces, divisions, axes)
    errors = [float((out - expected).abs().max())]
    for name, parameter in parameters.items():
        errors.append(float((local(parameter.grad, name, axes) - pieces[name].grad).abs().max()))
    return {"error": max(errors), "forward": forward, "all": axes.sent["tensor"], "unknown": sorted(axes.unknown)}


def both(mesh: Mesh) -> list[dict[str, Any]]:
    return [column_row(mesh), column_row(mesh, broken=True)]


def test_a_column_and_row_parallel_block_equals_one_process_and_sends_one_reduction_each_way() -> None:
    for result, broken in run_world(f"{HERE}:both", 2, layout={"tensor": 2}):
        assert result["error"] < 1e-12
        assert result["unknown"] == []
        assert (result["forward"], result["all"]) == (BYTES, 2 * BYTES)
        assert broken["error"] > 1e-2  # a rule that forgets a pending sum


@pytest.mark.parametrize("size", [2, 4])
def test_a_dry_run_counts_what_ranks_would_send(size: int) -> None:
    x, parameters = make()
    axes = DryAxes.sized({"tensor": size})
    divisions = {name: division_of(name, parameter) for name, parameter in parameters.items()}
    pieces = {
        name: nn.Parameter(torch.empty(divisions[name].local_shape(axes.sizes), dtype=x.dtype, device="meta"))
        for name in parameters
    }
    out, forward = step(x.to("meta"), pieces, divisions, axes)
    assert out.shape == x.shape
    assert (forward, axes.sent["tensor"]) == (2 * (size - 1) * BYTES // size, 4 * (size - 1) * BYTES // size)
    assert pieces["up"].grad is not None and pieces["up"].grad.shape == (8 // size, 4)
