"""Whole models over a divided time, against one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.models.attention import set_attention
from modelwright.models.gpt import GPT
from modelwright.models.vit import ViT
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.divided import Axes, Division, divided_along, dividing, full, whole
from modelwright.parallel.divided.value import plain, redistribute
from modelwright.parallel.layouts.context import Context, dividing_inputs, exchanged

HERE = "tests.parallel.layouts.test_context"
VOCABULARY, TIME = 12, 16

Batch = dict[str, Tensor]


def tokens(**more: Any) -> Batch:
    make = torch.Generator().manual_seed(1)
    batch = {name: torch.randint(0, VOCABULARY, (2, TIME), generator=make) for name in ("inputs", "targets")}
    batch["targets"][0, :5] = -100
    return batch | more


def packed() -> Batch:
    segments = torch.tensor([[0] * 7 + [1] * 9, [0] * 3 + [1] * 8 + [2] * 5])
    positions = torch.tensor([[*range(7), *range(9)], [*range(3), *range(8), *range(5)]])
    return tokens(segments=segments, positions=positions)


def gpt(kernel: str = "sdpa", **more: Any) -> nn.Module:
    fields = {"layers": 2, "width": 12, "heads": 2, "hidden": 16} | more
    model = GPT(vocabulary=VOCABULARY, **fields).build()
    set_attention(model, kernel)
    return model


def images() -> Batch:
    make = torch.Generator().manual_seed(1)
    return {"inputs": torch.randn(2, 3, 8, 8, generator=make), "targets": torch.tensor([1, 3])}


def vit(pooling: str) -> nn.Module:
    return ViT(channels=3, image_size=8, classes=4, patch=2, layers=1, width=12, heads=2, pooling=pooling).build()  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[], Batch]]] = {
    "gpt": (lambda: gpt(kv_heads=1, qk_norm=True), NextToken(logits="full"), tokens),
    "gpt-explicit": (lambda: gpt("explicit", kv_heads=1), NextToken(logits="full", label_smoothing=0.1), tokens),
    "gpt-chunked": (lambda: gpt(tied_embeddings=False), NextToken(logits="chunked"), tokens),
    "gpt-packed": (lambda: gpt(), NextToken(label_smoothing=0.1), packed),
    "gpt-packed-explicit": (lambda: gpt("explicit"), NextToken(), packed),
    "gpt-dropout": (lambda: gpt(dropout=0.2), NextToken(), tokens),
    "vit-mean": (lambda: vit("mean"), Classification(), images),
    "vit-cls": (lambda: vit("cls"), Classification(), images),
}


def totals(model: nn.Module, objective: Any, batch: Batch) -> Tensor:
    torch.manual_seed(3)
    (loss,) = objective.loss(objective.forward(model, batch), batch).values()
    return full(loss)  # type: ignore[no-any-return]


def compared(
    mesh: Mesh, make: Callable[[], nn.Module], objective: Any, batch: Callable[[], Batch], technique: Context
) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    whole = copy.deepcopy(model)
    wanted = totals(whole, objective, batch())
    wanted.backward()  # type: ignore[no-untyped-call]
    events: list[Event] = []
    with listening(events.append), technique.over(model, mesh) as axes:
        found = totals(model, objective, batch())
        found.backward()  # type: ignore[no-untyped-call]
    exchanged(model, mesh)
    pairs = zip(model.parameters(), whole.parameters(), strict=True)
    return {
        "loss": float((found - wanted).abs().detach()),
        "gradients": max(
            float((mine.grad - other.grad).abs().max()) for mine, other in pairs if other.grad is not None
        ),
        "sent": axes.sent["context"],
        "events": [event.message for event in events],
    }


SOME = ("gpt", "gpt-explicit", "gpt-chunked", "gpt-packed", "vit-mean")
OTHERS: dict[str, dict[str, Any]] = {"all-gather": {"attention": "all-gather"}, "balanced": {"balanced": True}}


def compare(mesh: Mesh, cases: list[str]) -> dict[str, Any]:
    found = {case: compared(mesh, *CASES[case], Context()) for case in cases}
    for name, fields in OTHERS.items() if mesh.size == 2 else ():
        found |= {f"{case} {name}": compared(mesh, *CASES[case], Context(**fields)) for case in ("gpt", "gpt-packed")}
    return found


@pytest.mark.parametrize(("workers", "cases"), [(2, list(CASES)), (4, list(SOME))])
def test_losses_and_gradients_are_those_of_one_process(
    workers: int, cases: list[str], request: pytest.FixtureRequest
) -> None:
    if workers == 4 and not request.config.getoption("--full"):
        cases = cases[-2:]
    for found in run_world(f"{HERE}:compare", workers, layout={"context": workers}, cases=cases):
        for name, result in found.items():
            assert max(result["loss"], result["gradients"]) < 1e-12, (name, result)
            assert result["events"] == []


# --- with tensor parallelism

COLUMNS = ("query.weight", "key.weight", "value.weight", "gate.weight", "up.weight", "embedding.weight", "head.weight")
ROWS = ("output.weight", "down.weight")


def division_of(name: str, parameter: Tensor, axes: Axes) -> Division:
    if not name.endswith((*COLUMNS, *ROWS)):
        return whole(tuple(parameter.shape))
    return axes.known(divided_along(parameter.shape, int(name.endswith(ROWS)), "tensor"))


def with_tensor(mesh: Mesh, tied: bool, logits: str) -> dict[str, Any]:
    """Heads, feed-forward and vocabulary over one axis, time over the other."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model, objective = gpt(tied_embeddings=tied), NextToken(logits=logits, label_smoothing=0.1)  # type: ignore[arg-type]
    reference = copy.deepcopy(model)
    wanted = totals(reference, objective, tokens())
    wanted.backward()  # type: ignore[no-untyped-call]
    axes = Axes.of(mesh)
    divisions = {parameter: division_of(name, parameter, axes) for name, parameter in model.named_parameters()}
    for parameter, division in divisions.items():
        parameter.data = redistribute(plain(parameter.detach(), axes), division).local.clone()
    events: list[Event] = []
    with listening(events.append), dividing_inputs(model, axes), dividing(divisions, axes, deferred=("context",)):
        found = totals(model, objective, tokens())
        found.backward()  # type: ignore[no-untyped-call]
    exchanged(model, mesh)
    far = 0.0
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        part = redistribute(plain(other.grad, axes), divisions[mine]).local  # type: ignore[arg-type]
        far = max(far, float((mine.grad - part).abs().max()))  # type: ignore[operator]
    return {"loss": float((found - wanted).abs().detach()), "gradients": far, "events": [str(e) for e in events]}


def with_tensors(mesh: Mesh) -> list[dict[str, Any]]:
    return [with_tensor(mesh, tied, logits) for tied in (True, False) for logits in ("chunked", "full")]


def test_time_and_heads_and_vocabulary_are_divided_together() -> None:
    for found in run_world(f"{HERE}:with_tensors", 4, layout={"context": 2, "tensor": 2}):
        for result in found:
            assert max(result["loss"], result["gradients"]) < 1e-12, result
            assert result["events"] == []


# --- whatever door the objective takes


def shapes(mesh: Mesh) -> list[dict[str, Any]]:
    """What the blocks compute, on this rank, where logits are made in chunks or at once."""
    found: list[dict[str, Any]] = []
    for logits in ("chunked", "full"):
        model, objective, seen = gpt(tied_embeddings=False), NextToken(logits=logits), list[list[int]]()  # type: ignore[arg-type]
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.head:
                module.register_forward_hook(lambda _, inputs, out: seen.append([*out.shape, out.local.shape[1]]))  # noqa: B023
        with Context().over(model, mesh) as axes:
            totals(model, objective, tokens()).backward()  # type: ignore[no-untyped-call]
        found.append({"times": sorted({(shape[1], shape[-1]) for shape in seen}), "sent": axes.sent["context"]})
    return found


def test_time_is_divided_whatever_the_objective_calls() -> None:
    for found in run_world(f"{HERE}:shapes", 2, layout={"context": 2}):
        assert [each["times"] for each in found] == [[[TIME, TIME // 2]]] * 2
        assert all(each["sent"] > 0 for each in found)


# --- refusals


class Reader(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2.0


def refused(mesh: Mesh) -> list[str]:
    said = []
    for batch in (torch.zeros(2, 7), torch.zeros(8)):
        model = Reader()
        with Context().over(model, mesh), pytest.raises(ModelwrightError) as caught:
            model(batch)
        said.append(str(caught.value))
    return said


def test_what_cannot_be_shared_evenly_is_refused() -> None:
    first, second = run_world(f"{HERE}:refused", 2, layout={"context": 2})[0]
    assert "7 positions, which 2 ranks cannot share evenly" in first
    assert "use windows of 8 positions" in first
    assert "no tensor [batch, time, ...]" in second


def test_attention_travels_in_two_ways() -> None:
    with pytest.raises(ModelwrightError, match="ring or all-gather"):
        Context(attention="star")  # type: ignore[arg-type]
