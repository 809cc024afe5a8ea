"""Random programs and divisions: outputs and gradients equal those of one process."""

from __future__ import annotations

import math
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.divided.programs import PROGRAMS as COMPUTING
from tests.parallel.divided.writes import WRITES
from tests.world import run_world
from torch import Tensor

from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.parallel.divided import (
    Axes,
    Divided,
    Division,
    Factor,
    Sequence,
    dim_of,
    divided,
    full,
    origins,
    piece,
    whole,
)
from modelwright.parallel.divided.division import fits, product_of
from modelwright.parallel.divided.value import Value, redistribute

HERE = "tests.parallel.divided.test_programs"
SHAPES = ((4, 8, 8), (8, 8), (8,))
PROGRAMS = COMPUTING | WRITES


def random_division(draw: np.random.Generator, shape: tuple[int, ...], axes: Axes) -> Division:
    """Each axis divides at most one dim, at a random place within it."""
    found = whole(shape)
    for axis in draw.permutation(sorted(axes.sizes)):
        place = int(draw.integers(-1, len(shape)))
        if place < 0:
            continue
        dim = found.dims[place]
        if dim != whole(shape).dims[place]:
            continue
        size = shape[place]
        count = int(draw.choice([count for count in (1, 2, 4) if size % (count * axes.sizes[axis]) == 0]))
        run = (Factor(count), Factor(size // count, str(axis)))
        if draw.random() < 0.2 and size % 4 == 0:
            goal = dim_of([(Factor(size // 2),), (Factor(size // 2, str(axis)),)])
        else:
            goal = dim_of([product_of(run)])
        if fits(found.with_dim(place, goal), axes.sizes):
            found = found.with_dim(place, goal)
    return found


def given(draw: np.random.Generator, tensor: Tensor, axes: Axes) -> Tensor:
    """The tensor, divided at random, or a sum of terms at random."""
    division = random_division(draw, tuple(tensor.shape), axes)
    result = piece(tensor, division, axes)
    free = sorted(axes.sizes.keys() - division.axes)
    if not free or draw.random() < 0.6:
        return result
    pending = frozenset(draw.choice(free, int(draw.integers(1, len(free) + 1)), replace=False).tolist())
    return Pending.apply(result, pending, axes)  # type: ignore[no-any-return, no-untyped-call]


class Pending(torch.autograd.Function):
    """The same value as a sum: what other ranks add, the first takes away."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, pending: frozenset[str], axes: Axes) -> Tensor:
        one = tensor.value if isinstance(tensor, Divided) else Value(tensor, whole(tuple(tensor.shape)), axes)
        local = one.local
        noise = torch.sin(torch.arange(local.numel(), dtype=local.dtype)).view(local.shape)
        ways = np.prod([axes.sizes[axis] for axis in pending])
        found = redistribute(one, one.division, pending)
        return Divided(found.like(found.local + (noise * (1 - ways) if axes.first(pending) else noise)))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None, None


def leaves(name: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in SHAPES]


def one(name: str, number: int, axes: Axes) -> float:
    """The largest difference between a program divided and in one process."""
    draw = np.random.default_rng([zlib.crc32(name.encode()), number])
    expected_leaves, own_leaves = leaves(name), leaves(name)
    torch.manual_seed(number)
    expected = PROGRAMS[name](*expected_leaves)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view(expected.shape)
    (expected * weights).sum().backward()
    torch.manual_seed(number)
    out = PROGRAMS[name](*(given(draw, leaf, axes) for leaf in own_leaves))
    assert out.shape == expected.shape, f"{tuple(out.shape)} is not {tuple(expected.shape)}"
    found = full(out)
    loss = (out * piece(weights, random_division(draw, tuple(weights.shape), axes), axes)).sum()
    full(loss).backward()
    differences = [distance(found, expected)]
    for mine, theirs in zip(own_leaves, expected_leaves, strict=True):
        gradients = [leaf.grad if leaf.grad is not None else torch.zeros(()) for leaf in (mine, theirs)]
        assert not isinstance(gradients[0], Divided)
        differences.append(distance(*gradients))
    return max(differences)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max().clamp_min(1))


def run_programs(mesh: Mesh, numbers: int, names: list[str]) -> dict[str, Any]:
    worst: dict[str, float] = {}
    events: list[Event] = []
    with listening(events.append):
        for name, number in product(names, range(numbers)):
            axes = Axes.of(mesh, sequence=Sequence("tensor", 1) if number % 2 else None)
            worst[name] = max(worst.get(name, 0.0), one(name, number, axes))
    return {"worst": worst, "unknown": sorted({str(event.details["operator"]) for event in events})}


# A rule for each of these would save little: they are computed whole.
UNKNOWN = ["aten._cdist_backward.default", "aten._cdist_forward.default", "aten.diagonal.default", "aten.roll.default"]


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"context": 2, "tensor": 2}], ids=["two", "four"])
def test_programs_give_what_one_process_gives(layout: dict[str, int], request: pytest.FixtureRequest) -> None:
    everything = request.config.getoption("--full")
    ranks = math.prod(layout.values())
    numbers = (4 if ranks == 2 else 2) if everything else 2 if ranks == 2 else 1
    for result in run_world(f"{HERE}:run_programs", ranks, layout=layout, numbers=numbers, names=list(PROGRAMS)):
        assert {name: error for name, error in result["worst"].items() if error > 1e-12} == {}
        assert set(result["worst"]) == set(PROGRAMS)
        assert result["unknown"] == UNKNOWN


def lost(mesh: Mesh) -> dict[str, float]:
    origins.written = divided.written = lambda value: None  # type: ignore[assignment]
    return {name: max(one(name, number, Axes.of(mesh)) for number in range(3)) for name in list(WRITES)[:2]}


def test_writes_that_do_not_come_home_are_noticed() -> None:
    assert min(run_world(f"{HERE}:lost", 2, layout={"tensor": 2})[0].values()) > 0.01
