"""Steps of an exchange with known gradients, in a world of several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.base.written import chosen
from modelwright.parallel import EXCHANGES, Exchange

SHAPES = ((6, 20), (7,), (3, 2, 2, 2), (12, 9), (), (5, 1))


def gradient(seed: int, step: int, rank: int, place: int, shape: Sequence[int]) -> np.ndarray:
    """Of one parameter in one step on one rank."""
    return np.random.default_rng([seed, step, rank, place]).normal(size=shape)


def parameters(shapes: Sequence[Sequence[int]] = SHAPES, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Zeros; those of four dims lie channels last."""
    zeros = [torch.zeros(tuple(shape), dtype=dtype) for shape in shapes]
    return [nn.Parameter(z.to(memory_format=torch.channels_last) if z.dim() == 4 else z) for z in zeros]


def built(technique: Any, group: Group, held: Sequence[nn.Parameter]) -> Exchange:
    exchange: Exchange = chosen(technique, EXCHANGES).build(group)
    exchange.attach(held)
    return exchange


def named(held: Sequence[nn.Parameter]) -> dict[nn.Parameter, str]:
    return {parameter: f"p{place}" for place, parameter in enumerate(held)}


def step(exchange: Exchange, held: Sequence[nn.Parameter], gradients: Sequence[np.ndarray | None]) -> list[Any]:
    """Backward and exchange; the gradients as lists, which keep every bit. The step is not over yet."""
    for parameter in held:
        parameter.grad = None
    terms = [
        (parameter * torch.from_numpy(value).to(parameter.dtype)).sum()
        for parameter, value in zip(held, gradients, strict=True)
        if value is not None
    ]
    with exchange.backward(last=True):
        if terms:
            torch.stack(terms).sum().backward()
    exchange.before_step()
    for parameter in held:
        assert parameter.grad is None or parameter.grad.stride() == parameter.stride()
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in held]


def state(exchange: Exchange, held: Sequence[nn.Parameter]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in exchange.state(named(held)).items()}


def several_steps(
    mesh: Mesh, technique: Any, steps: int, dtype: str = "float64", shapes: Any = SHAPES, seed: int = 0
) -> dict[str, Any]:
    """The sums of each step, what is remembered before the first and after the last, and the bytes sent in each."""
    held = parameters(shapes, getattr(torch, dtype))
    exchange = built(technique, mesh.world, held)
    begin, found, sent = state(exchange, held), [], []
    for number in range(steps):
        before = mesh.world.traffic.sent
        given = [gradient(seed, number, mesh.rank, place, shape) for place, shape in enumerate(shapes)]
        found.append(step(exchange, held, given))
        exchange.after_step(False)
        sent.append(mesh.world.traffic.sent - before)
    return {"found": found, "begin": begin, "end": state(exchange, held), "sent": sent}


def several_cases(mesh: Mesh, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """:func:`several_steps` of each case, in one world."""
    return [several_steps(mesh, **case) for case in cases]


def summed(step_number: int, ranks: int, place: int, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """The true sum over the ranks."""
    return np.sum([gradient(seed, step_number, rank, place, shape) for rank in range(ranks)], axis=0)
