"""Our gpt, divided over tensor, time and context, computes what it computes in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from modelwright.base.events import listening
from modelwright.base.world import Mesh
from modelwright.models.gpt import GPT, GPTModule
from modelwright.parallel.divided import Axes, Division, Sequence, divided_along, dividing, full, piece, whole
from modelwright.parallel.divided.value import plain, redistribute

HERE = "tests.parallel.divided.test_gpt"
COLUMNS = tuple(f"{name}.weight" for name in ("query", "key", "value", "gate", "up", "query_norm", "key_norm"))
ROWS = ("output.weight", "down.weight")


def build(dropout: float = 0.0, qk_norm: bool = True) -> GPTModule:
    torch.manual_seed(5)
    config = GPT(vocabulary=16, layers=2, width=16, heads=4, hidden=32, qk_norm=qk_norm, dropout=dropout)
    return config.build().double()


def division_of(name: str, parameter: Tensor) -> Division:
    if name.endswith(COLUMNS):
        return divided_along(parameter.shape, 0, "tensor")
    if name.endswith(ROWS):
        return divided_along(parameter.shape, 1, "tensor")
    return whole(tuple(parameter.shape))


def cut(model: nn.Module, axes: Axes) -> dict[nn.Parameter, Division]:
    """Leave of each parameter this rank's piece."""
    found: dict[nn.Parameter, Division] = {}
    for name, parameter in model.named_parameters():
        division = axes.known(division_of(name, parameter))
        parameter.data = redistribute(plain(parameter.detach(), axes), division).local.clone()
        found[parameter] = division
    return found


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(16, (2, 9), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def loss_of(model: GPTModule, inputs: Tensor, targets: Tensor, recompute: bool) -> Tensor:
    if recompute:
        for block in model.blocks:
            block.forward = _recomputed(block.forward)  # type: ignore[method-assign]
    logits = model(inputs)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def _recomputed(forward: Any) -> Any:
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def train(mesh: Mesh, case: Mapping[str, Any]) -> dict[str, Any]:
    inputs, targets = data()
    expected_model, model = build(case["dropout"]), build(case["dropout"])
    losses = []
    if case["short"]:
        expected_model, model = expected_model.float(), model.float()
    for _ in range(case["passes"]):
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=case["short"]):
            expected = loss_of(expected_model, inputs, targets, False)
        expected.backward()
    axes = Axes.of(mesh, sequence=Sequence("tensor", 1) if case["sequence"] else None)
    deferred = [axis for axis in case["deferred"] if axis in axes.sizes]
    events: list[Any] = []
    divisions = cut(model, axes)
    with listening(events.append), dividing(divisions, axes, deferred=deferred):
        for _ in range(case["passes"]):
            torch.manual_seed(7)
            place = divided_along(inputs.shape, 1, "context") if "context" in axes.sizes else whole(tuple(inputs.shape))
            with torch.autocast("cpu", torch.bfloat16, enabled=case["short"]):
                own = loss_of(model, piece(inputs, place, axes), piece(targets, place, axes), case["recompute"])
                total = full(own)
            total.backward()
            losses.append(abs(float(total - expected)) / float(expected))
    for parameter in divisions:
        for axis in deferred:
            axes.groups[axis].all_reduce(parameter.grad)
    worst = {}
    for (name, theirs), parameter in zip(expected_model.named_parameters(), divisions, strict=True):
        gradient = redistribute(plain(theirs.grad, axes), divisions[parameter]).local
        worst[name] = float((gradient - parameter.grad).abs().max() / gradient.abs().max())
    facts = {"unknown": sorted(axes.unknown), "sent": dict(axes.sent), "short": case["short"]}
    return {"losses": losses, "worst": worst} | facts


def all_cases(mesh: Mesh, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [train(mesh, case) for case in cases]


def case(**changes: Any) -> dict[str, Any]:
    return {
        "dropout": 0.0,
        "passes": 1,
        "sequence": False,
        "recompute": False,
        "deferred": [],
        "short": False,
    } | changes


CASES = [
    case(sequence=True),
    case(dropout=0.2, recompute=True),
    case(deferred=["context"], passes=2),
    case(short=True, sequence=True, recompute=True),
]


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"context": 2, "tensor": 2}], ids=["two", "four"])
def test_gpt_gives_what_one_process_gives(layout: dict[str, int], request: pytest.FixtureRequest) -> None:
    ranks = layout["tensor"] * layout.get("context", 1)
    everything = request.config.getoption("--full")
    cases = CASES if everything else CASES[:2] if ranks == 2 else CASES[2:]
    for results in run_world(f"{HERE}:all_cases", ranks, layout=layout, cases=cases):
        for result in results:
            loose = result["short"]
            assert max(result["losses"]) < (1e-2 if loose else 1e-12)
            assert max(result["worst"].values()) < (0.1 if loose else 1e-11)
            assert result["unknown"] == []
