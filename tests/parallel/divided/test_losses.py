"""Losses, embeddings, indexing and attention of divided tensors: values and gradients of one process, few bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor
from torch.nn import functional

from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.objectives.cross_entropy import cross_entropies, cross_entropy_total
from modelwright.objectives.linear_cross_entropy import LinearHead, linear_cross_entropies, linear_cross_entropy_total
from modelwright.parallel.divided import Axes, divided_along, dividing, full, piece
from modelwright.parallel.divided.rules.attention import attending

HERE = "tests.parallel.divided.test_losses"
Program = Callable[[Tensor, Tensor, Tensor], Tensor]


def logits(x: Tensor, w: Tensor) -> Tensor:
    return functional.linear(x, w, w[:, 0]).flatten(0, 1)


def chunked(x: Tensor, w: Tensor, y: Tensor, **more: Any) -> Tensor:
    head = LinearHead(weight=w, bias=w[:, 1] * 1, dtype=torch.float64, chunk=8 * 16 * 3)
    return linear_cross_entropy_total(x, head, y, **more)


def attended(x: Tensor, w: Tensor, **more: Any) -> Tensor:
    heads = [functional.linear(x, w * n).unflatten(2, (4, 4)).transpose(1, 2) for n in (1, 2, 3)]
    return functional.scaled_dot_product_attention(*heads, **more)


def grouped(x: Tensor, w: Tensor, kv_heads: int) -> Tensor:
    query = functional.linear(x, w).unflatten(2, (4, 4)).transpose(1, 2)
    key, value = (
        functional.linear(x, w[: 4 * kv_heads] * n).unflatten(2, (kv_heads, 4)).transpose(1, 2) for n in (2, 3)
    )
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def biased(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    bias = torch.where(y[:, :, None] < y[:, None, :], x.sum(-1)[:, :, None] * w.sum(), 0.5)
    return attended(x, w, attn_mask=bias[:, None])


# Of x [2, 8, 16] with time over context, w [16, 16] with its rows over tensor, y [2, 8] of numbers below 16 or -100.
PROGRAMS: dict[str, Program] = {
    "cross-entropy": lambda x, w, y: functional.cross_entropy(logits(x, w), y.flatten(), reduction="sum"),
    "mean": lambda x, w, y: functional.cross_entropy(logits(x, w), y.flatten()),
    "none": lambda x, w, y: functional.cross_entropy(logits(x, w), y.flatten(), reduction="none").square(),
    "smooth": lambda x, w, y: functional.cross_entropy(logits(x, w), y.flatten(), label_smoothing=0.2),
    "weighted": lambda x, w, y: functional.cross_entropy(logits(x, w), y.flatten(), torch.arange(16.0)),
    "classes second": lambda x, w, y: functional.cross_entropy((x @ w.t()).transpose(1, 2), y, reduction="none"),
    "shares": lambda x, w, y: functional.softmax(x @ w.t(), -1).square() + functional.log_softmax(x @ w.t(), 1),
    "log-sum-exp": lambda x, w, y: torch.logsumexp(x @ w.t(), -1) + torch.logsumexp(x @ w.t(), 2, keepdim=True)[..., 0],
    "ours": lambda x, w, y: cross_entropy_total(x @ w.t(), y, label_smoothing=0.1),
    "ours, each": lambda x, w, y: cross_entropies(x @ w.t(), y).square(),
    "chunked": chunked,
    "chunked smooth": lambda x, w, y: chunked(x, w, y, label_smoothing=0.1),
    "chunked, each": lambda x, w, y: linear_cross_entropies(x, LinearHead.of(x, w), y).square(),
    "embedding": lambda x, w, y: functional.embedding(y.clamp(min=0), w) * x,
    "embedding of width": lambda x, w, y: functional.embedding(y.clamp(min=0), w.t()) * x,
    "padding": lambda x, w, y: functional.embedding(y.clamp(min=0), w, padding_idx=3) * x,
    "operator": lambda x, w, y: torch.embedding(w * 1, y.clamp(min=0)) + x,
    "gather": lambda x, w, y: torch.gather(x @ w.t(), 2, y.clamp(min=0)[..., None]) * x.gather(2, y[..., None] % 16),
    "gather time": lambda x, w, y: x.gather(1, y.clamp(0, 7)[..., None].expand(2, 8, 16)) @ w,
    "scatter": lambda x, w, y: torch.zeros_like(x).scatter(2, y.clamp(min=0)[..., None], x[..., :1]) @ w.t(),
    "scatter add": lambda x, w, y: x.scatter_add(2, y.clamp(min=0)[..., None], x[..., :1]) @ w.t(),
    "index": lambda x, w, y: w[y.clamp(min=0)] + x[:, torch.tensor([1, 2, 0, 3, 4, 4, 4, 7])],
    "index a row": lambda x, w, y: x[torch.arange(2), y.clamp(0, 7).amax(1)] @ w,
    "chosen by a mask": lambda x, w, y: x[y >= 0] @ w,
    "index-select": lambda x, w, y: x.index_select(1, torch.tensor([1, 1, 5])) @ w.index_select(0, y[0]).t(),
    "index-add": lambda x, w, y: torch.zeros_like(w).index_add(0, y.clamp(min=0).flatten(), x.flatten(0, 1)) @ w,
    "triangle": lambda x, w, y: (x @ x.mT).tril(-1) @ x + (x @ x.mT).triu() @ (x @ w.tril(2)),
    "attention": lambda x, w, y: attended(x, w),
    "causal": lambda x, w, y: attended(x, w, is_causal=True, scale=0.3),
    "seen": lambda x, w, y: attended(x, w, attn_mask=((y[:, :, None] < 9) | (y[:, None, :] < 9))[:, None]),
    "added to scores": biased,
    "grouped": lambda x, w, y: grouped(x, w, 2),
    "one key": lambda x, w, y: grouped(x, w, 1),
    "to another": lambda x, w, y: functional.scaled_dot_product_attention(
        x[:, None], w.expand(2, 1, 16, 16), w.expand(2, 1, 16, 16), is_causal=True
    ),
}


def make() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 16, generator=generator, dtype=torch.float64)
    w = torch.randn(16, 16, generator=generator, dtype=torch.float64) / 2
    y = torch.randint(0, 16, (2, 8), generator=generator)
    y[1, 2:5] = -100
    return x.requires_grad_(), w.requires_grad_(), y


def results(program: Program, x: Tensor, w: Tensor, y: Tensor) -> list[Tensor]:
    found = full(program(x, w, y))
    weights = torch.arange(1.0, found.numel() + 1, dtype=torch.float64).cos().view(found.shape)
    (found * weights).sum().backward()
    return [found.detach()]


def compared(mesh: Mesh, name: str) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    x, w, y = make()
    wanted = [*results(PROGRAMS[name], x, w, y), x.grad, w.grad]
    axes = Axes.of(mesh)
    mine = make()
    events: list[Event] = []
    with listening(events.append), dividing({}, axes), attending("all-gather" if name == "causal" else "ring"):
        found = results(
            PROGRAMS[name],
            piece(mine[0], divided_along((2, 8, 16), 1, "context"), axes),
            piece(mine[1], divided_along((16, 16), 0, "tensor"), axes),
            piece(mine[2], divided_along((2, 8), 1, "context"), axes),
        )
    pairs = zip([*found, mine[0].grad, mine[1].grad], wanted, strict=True)
    far = [0.0 if a is b is None else float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs]
    return {"far": max(far), "events": [str(event.details["operator"]) for event in events]}


def compare(mesh: Mesh) -> dict[str, Any]:
    return {name: compared(mesh, name) for name in PROGRAMS}


@pytest.mark.parametrize("layout", [{"context": 2}, {"context": 2, "tensor": 2}])
def test_values_and_gradients_are_those_of_one_process(layout: dict[str, int]) -> None:
    for found in run_world(f"{HERE}:compare", 2 if len(layout) == 1 else 4, layout=layout):
        assert {name: result for name, result in found.items() if not result["far"] < 1e-12} == {}
