"""What is gathered or rounded once for several uses: never out of date, and not forgotten without need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.world import run_world
from torch import Tensor
from torch.nn import functional

from modelwright.base.world import Mesh
from modelwright.parallel.divided import Axes, Divided, Sequence, divided_along, dividing, full, piece

HERE = "tests.parallel.divided.test_remembered"
SHAPE = (2, 4, 6)

WRITES: dict[str, Callable[[Tensor], object]] = {
    "scaled": lambda y: y.mul_(3),
    "row": lambda y: y[1].add_(1),
    "time": lambda y: y[:, 1:3].zero_(),
    "view": lambda y: y.flatten(0, 1).sub_(2),
    "flattened entries": lambda y: y.view(-1)[5:9].fill_(7),
    "transposed": lambda y: y.transpose(0, 1).copy_(torch.ones(4, 2, 6, dtype=y.dtype)),
    "detached": lambda y: y.detach().neg_(),
    "several": lambda y: torch._foreach_add_([y], 1.0),
    "out": lambda y: torch.add(y, 1, out=y),
    "places": lambda y: y.index_put_((torch.tensor([1, 0]), torch.tensor([3, 0])), torch.ones(6, dtype=y.dtype)),
    "masked": lambda y: y.masked_fill_(torch.arange(6) > 3, -1.0),
    "assigned": lambda y: y.__setitem__((slice(None), 2), 5.0),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twice(y: Tensor, weight: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    """Uses of a tensor and of views of it, before and after it is written."""
    rows, swapped = y.flatten(0, 1), y.flatten(0, 1).t()
    uses = [y @ weight, rows @ weight, (weight.t() @ swapped).t()]
    write(y)
    uses += [y @ weight, rows @ weight, (weight.t() @ swapped).t()]
    return torch.stack([use.reshape(2, 4, 32) for use in uses])


def run_writes(mesh: Mesh) -> dict[str, float]:
    axes = Axes.of(mesh, sequence=Sequence("tensor", 1))
    worst = {}
    weight = piece(numbers(6, 32), divided_along((6, 32), 1, "tensor"), axes)
    for name, write in WRITES.items():
        found = twice(piece(numbers(*SHAPE), divided_along(SHAPE, 1, "tensor"), axes), weight, write)
        expected = twice(numbers(*SHAPE), numbers(6, 32), write)
        assert not torch.equal(expected[0], expected[3])
        worst[name] = float((full(found) - expected).abs().max())
    return worst


def run_new_tensors(mesh: Mesh) -> float:
    """Tensors that come to lie where others lay."""
    axes, worst = Axes.of(mesh), 0.0
    weight = piece(numbers(6, 32), divided_along((6, 32), 1, "tensor"), axes)
    for seed in range(100):
        y = piece(numbers(8, 6, seed=seed), divided_along((8, 6), 0, "tensor"), axes)
        found = full(y @ weight)
        del y
        worst = max(worst, float((found - numbers(8, 6, seed=seed) @ numbers(6, 32)).abs().max()))
    return worst


def run_kept(mesh: Mesh) -> dict[str, Any]:
    """Bytes of two uses of one tensor between which others are written, and what is kept then and in the end."""
    axes = Axes.of(mesh, sequence=Sequence("tensor", 1))
    weight = piece(numbers(6, 32), divided_along((6, 32), 1, "tensor"), axes)
    y, other = (piece(numbers(*SHAPE), divided_along(SHAPE, 1, "tensor"), axes) * 2 for _ in range(2))
    sent, held = [], []
    with dividing({}, axes):
        for _ in range(3):
            before = axes.sent["tensor"]
            product = y @ weight
            product.add_(1)
            other.mul_(2)
            y @ weight
            sent.append(axes.sent["tensor"] - before)
            other @ weight
            held.append(len(axes.latest))
    return {"sent": sent, "held": held, "left": len(axes.latest)}


def rounded_twice(x: Tensor, first: Tensor, second: Tensor, between: Callable[[Tensor], object]) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one = functional.linear(x, first)
        between(x)
        return torch.stack([one, functional.linear(x, second)]).float()


def run_rounded(mesh: Mesh) -> dict[str, float]:
    """Linear layers under autocast that read a tensor before and after it is written."""
    axes, worst = Axes.of(mesh, sequence=Sequence("tensor", 1)), {}
    weights = [numbers(32, 6, seed=seed).float() for seed in (1, 2)]
    pieces = [piece(weight, divided_along((32, 6), 0, "tensor"), axes) for weight in weights]
    for name, write in {**WRITES, "nothing": lambda y: None}.items():
        expected = rounded_twice(numbers(*SHAPE).float(), *weights, write)
        for divided in (False, True):
            x = numbers(*SHAPE).float()
            with dividing({}, axes):
                given = piece(x, divided_along(SHAPE, 1, "tensor"), axes) if divided else x
                found = full(rounded_twice(given, *pieces, write))
            worst[f"{name} {divided}"] = float((found - expected).abs().max())
    return worst


def run_modes(mesh: Mesh) -> list[float]:
    """A tensor that was rounded without gradients, or before it had any, gets them where it should."""
    axes = Axes.of(mesh)
    weight = piece(numbers(32, 6).float(), divided_along((32, 6), 0, "tensor"), axes)
    x, sums = numbers(4, 6).float(), []
    with dividing({}, axes), torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.inference_mode():
            functional.linear(x, weight)
        with torch.no_grad():
            functional.linear(x, weight)
        functional.linear(x, weight)
        x.requires_grad_()
        with torch.no_grad():
            assert not functional.linear(x, weight).requires_grad
        for _ in range(2):
            x.grad = None
            full(functional.linear(x, weight).float().sum()).backward()
            assert x.grad is not None and not isinstance(x.grad, Divided)
            sums.append(float((x.grad - numbers(32, 6).float().sum(0)).abs().max()))
    return sums


def test_what_was_written_is_gathered_again() -> None:
    for worst in run_world(f"{HERE}:run_writes", 2, layout={"tensor": 2}):
        assert {name: each for name, each in worst.items() if each > 1e-12} == {}


def test_new_tensors_in_old_places_are_gathered() -> None:
    assert max(run_world(f"{HERE}:run_new_tensors", 2, layout={"tensor": 2})) < 1e-12


def test_writing_elsewhere_lets_nothing_be_forgotten() -> None:
    for found in run_world(f"{HERE}:run_kept", 2, layout={"tensor": 2}):
        assert found["sent"] == [2 * 4 * 6 * 8 // 2] * 3  # the other half, once
        assert found["held"] == [1, 1, 1]
        assert found["left"] == 0


def test_what_was_written_is_rounded_again() -> None:
    for worst in run_world(f"{HERE}:run_rounded", 2, layout={"tensor": 2}):
        assert {name: each for name, each in worst.items() if each > 1e-6} == {}


def test_what_is_rounded_once_has_the_gradients_of_its_uses() -> None:
    for sums in run_world(f"{HERE}:run_modes", 2, layout={"tensor": 2}):
        assert max(sums) < 0.05
