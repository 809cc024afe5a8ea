"""Attention over a divided time dim against torch's own in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.world import Mesh
from modelwright.parallel.context import attention as module
from modelwright.parallel.context import kernels
from modelwright.parallel.context.attention import attention
from modelwright.parallel.context.kernels import CpuFlash, WrittenOut

HERE = "tests.parallel.context.test_attention"
TIME = 16
CASES: list[dict[str, Any]] = [
    {"causal": True},
    {"causal": False},
    {"causal": True, "kv_heads": 2},
    {"causal": False, "kv_heads": 1, "value_width": 3},
    {"causal": True, "mask": "bool"},
    {"causal": False, "mask": "bool"},
    {"causal": False, "mask": "float"},
    {"causal": False, "mask": "row"},
    {"causal": True, "kv_heads": 2, "mask": "float", "scale": 0.3},
    {"causal": False, "source": 8},
    {"causal": True, "source": 24},
    {"causal": True, "balanced": True},
    {"causal": True, "balanced": True, "mask": "bool", "kv_heads": 2},
    {"causal": True, "balanced": True, "mask": "float"},
]


def inputs(case: dict[str, Any]) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """Query, key and value, mask, and what the outputs are multiplied with."""
    source, kv_heads, width = case.get("source", TIME), case.get("kv_heads", 4), 6
    value_width = case.get("value_width", width)
    make = torch.Generator().manual_seed(0)
    shapes = [(2, 4, TIME, width), (2, kv_heads, source, width), (2, kv_heads, source, value_width)]
    tensors = [torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes]
    weights = torch.randn((2, 4, TIME, value_width), generator=make, dtype=torch.float64)
    seen = torch.rand(2, 1, TIME, source, generator=make) < 0.6
    seen[:, :, :, 0] = True
    bias = torch.randn(4, TIME, source, generator=make, dtype=torch.float64)
    masks = {"bool": seen, "float": bias, "row": seen[:, :, :1], None: None}
    return tensors, masks[case.get("mask")], weights


def whole(case: dict[str, Any]) -> list[Tensor]:
    """Outputs and gradients of one process, by torch."""
    (query, key, value), mask, weights = inputs(case)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    if mask is not None and mask.is_floating_point():
        leaves.append(mask.requires_grad_())
    seen = mask
    if case["causal"]:
        lower = torch.ones(TIME, key.size(2), dtype=torch.bool).tril()
        seen = lower if mask is None else mask & lower if mask.dtype == torch.bool else _hidden(mask, lower)
    found = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=case.get("scale"), enable_gqa=True
    )
    (found * weights).sum().backward()
    return [found.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]


def _hidden(mask: Tensor, seen: Tensor) -> Tensor:
    return mask.masked_fill(~seen, -torch.inf)


def mine(x: Tensor, mesh: Mesh, dim: int = 2) -> Tensor:
    return x.chunk(mesh.size, dim)[mesh.rank].clone()


def parts(mesh: Mesh, case: dict[str, Any], way: str) -> list[Tensor]:
    (query, key, value), mask, weights = inputs(case)
    leaves = [mine(x, mesh).requires_grad_() for x in (query, key, value)]
    seen = mine(mask, mesh, -2) if mask is not None and mask.size(-2) > 1 else mask
    if seen is not None and seen.is_floating_point():
        leaves.append(seen.requires_grad_())
    more = {name: case[name] for name in ("scale", "balanced") if name in case}
    found = attention(*leaves[:3], mesh.world, way=way, causal=case["causal"], mask=seen, **more)  # type: ignore[arg-type]
    (found * mine(weights, mesh)).sum().backward()
    return [found.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]


def difference(mesh: Mesh, case: dict[str, Any], way: str) -> float:
    wanted = whole(case)
    dims = [2, 2, 2, 2, -2]
    pairs = zip(parts(mesh, case, way), wanted, dims, strict=False)
    return max(float((part - mine(full, mesh, dim)).abs().max()) for part, full, dim in pairs)


def differences(mesh: Mesh, cases: list[dict[str, Any]], written_out: bool = False) -> dict[str, float]:
    kernels.KERNELS = (WrittenOut(),) if written_out else (CpuFlash(), WrittenOut())
    return {f"{way} {case}": difference(mesh, case, way) for way in ("ring", "all-gather") for case in cases}


@pytest.mark.parametrize(("workers", "written_out"), [(2, True), (4, False)])
def test_outputs_and_gradients_are_those_of_one_process(workers: int, written_out: bool) -> None:
    for found in run_world(f"{HERE}:differences", workers, cases=CASES, written_out=written_out):
        assert len(found) == 2 * len(CASES)
        assert {case: far for case, far in found.items() if not far < 1e-12} == {}


def without_offsets(mesh: Mesh) -> dict[str, float]:
    module.hidden = lambda queries, keys: False  # type: ignore[assignment]
    module.diagonal = lambda queries, keys: 0  # type: ignore[assignment]
    return {way: difference(mesh, CASES[0], way) for way in ("ring", "all-gather")}


def test_a_causal_mask_without_its_offset_is_noticed() -> None:
    for found in run_world(f"{HERE}:without_offsets", 2):
        assert min(found.values()) > 0.01


# --- what travels, and what exists


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operator(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            self.numel = max(self.numel, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return found


def measured(mesh: Mesh, ways: list[dict[str, Any]]) -> list[dict[str, int]]:
    kernels.KERNELS = (WrittenOut(),)
    found = []
    for fields in ways:
        query, key, value = (torch.randn(1, 1, 16, 2, requires_grad=True) for _ in range(3))
        before = mesh.world.traffic.sent
        with Largest() as largest:
            attention(query, key, value, mesh.world, **fields).sum().backward()
        found.append({"sent": mesh.world.traffic.sent - before, "largest": largest.numel})
    return found


def test_bytes_are_those_of_theory_and_one_block_of_scores_exists() -> None:
    """A causal ring sends half, as nobody asks for what comes later; gathered keys are larger than a block here."""
    fields = [{}, {"causal": True}, {"way": "all-gather"}, {"causal": True, "balanced": True}]
    results = run_world(f"{HERE}:measured", 4, ways=fields)
    piece, block = 16 * 2 * 4, 16 * 16
    full, causal, gathered, balanced = (sum(found[place]["sent"] for found in results) for place in range(4))
    assert full == gathered == 4 * 3 * 6 * piece  # to each of three: keys and values, twice, and their gradients
    assert causal == full // 2
    assert balanced <= full + 2 * 4 * 4 * piece  # once more query, key, value and output, there and back
    assert all(entry["largest"] <= block for found in results for entry in found)


# --- dropout


def dropped(mesh: Mesh) -> dict[str, float]:
    (query, key, value), _, weights = inputs({"causal": True})
    parts = [mine(x, mesh).requires_grad_() for x in (query, key, value)]

    def loss(*tensors: Tensor, dropout: float = 0.4) -> Tensor:
        found = attention(*tensors, mesh.world, causal=True, dropout=dropout, seed=5)
        return mesh.world.all_reduce((found * mine(weights, mesh)).sum())

    total = loss(*parts)
    total.backward()
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (loss(*((1 + sign * step) * x for x in parts[:2]), parts[2]) for sign in (1, -1))
        none = loss(*parts, dropout=0.0)
    slope = mesh.world.all_reduce(sum((x.grad * x).sum() for x in parts[:2]))  # type: ignore[operator, union-attr, arg-type, misc]
    linear = mesh.world.all_reduce((parts[2].grad * parts[2]).sum())
    return {
        "values": float((linear - total).detach()),
        "scores": float((ahead - behind) / (2 * step) - slope),
        "none": float((none - total).detach()),
    }


def test_the_backward_pass_drops_the_same_shares() -> None:
    for found in run_world(f"{HERE}:dropped", 2):
        assert abs(found["values"]) < 1e-12
        assert abs(found["scores"]) < 1e-6
        assert abs(found["none"]) > 0.1
