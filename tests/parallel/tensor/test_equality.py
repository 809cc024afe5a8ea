"""Divided models against one process: losses, gradients, and the bytes that travel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.graph import zoo
from tests.parallel.tensor.models import OTHERS, TRANSFORMERS, cross_entropy, gpt
from tests.world import run_world
from torch import nn

from modelwright.base.events import listening
from modelwright.base.world import Mesh
from modelwright.graph import Graph, trace
from modelwright.parallel.divided import dividing, full
from modelwright.parallel.layouts.tensor import Pieces, Tensor, divide
from modelwright.parallel.parts import Part

HERE = "tests.parallel.tensor.test_equality"
GPTS: dict[str, dict[str, Any]] = {
    "groups": {"kv_heads": 2},
    "queries within groups": {"kv_heads": 1},
    "untied": {"activation": "gelu", "tied_embeddings": False, "qk_norm": True},
}
# Of each kind, and four of a library that takes long to import on each rank; others if all are asked for.
SOME = ["gpt", "vit", "convnet-batch", "mlp", "gpt2", "llama", "bert", "t5"]
PATIENCE = 600.0  # seconds; only a hang lasts so long

Inputs = Mapping[str, torch.Tensor]
Loss = Callable[[Any, Any], torch.Tensor]


def gradients(model: nn.Module, inputs: Inputs, loss: Loss) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one process, with the whole model."""
    model = copy.deepcopy(model)
    with zoo.InDouble():
        value = loss(model(**inputs), inputs)
        value.backward()
    return value.item(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def run(
    mesh: Mesh,
    model: nn.Module,
    inputs: Inputs,
    loss: Loss,
    layout: Tensor,
    spoil: Callable[[nn.Module], None],
    graph: Graph | None = None,
) -> dict[str, Any]:
    """The largest differences from one process, relative to the largest gradient, and what was sent."""
    expected, wanted = gradients(model, inputs, loss)
    group = mesh.axis("tensor")
    decision = layout.decide(graph or trace(model, inputs, loss=loss), group.size)
    model, events = copy.deepcopy(model), []
    spoil(model)
    pieces, axes = divide(model, decision, group.rank), layout.axes(mesh)
    with listening(events.append), zoo.InDouble(), dividing(pieces.divisions, axes):
        value = full(loss(model(**inputs), inputs))
    value.backward()
    largest = max(each.abs().max() for each in wanted.values())
    return {
        "loss": abs(value.item() / expected - 1),
        "gradients": max(_differences(model, pieces, wanted, group.gather)) / float(largest),
        "sent": axes.sent["tensor"],
        "estimated": decision.sent,
        "whole": sorted(event.details["operator"] for event in events if "operator" in event.details),
    }


def _differences(model: nn.Module, pieces: Pieces, wanted: dict[str, torch.Tensor], gather: Any) -> list[float]:
    """Between each gradient, put together from the ranks' pieces, and that of one process."""
    found = []
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name not in wanted
            continue
        whole = torch.full_like(wanted[name], torch.nan)
        parts = [Part.from_json(each) for each in gather(pieces.parts[name].to_json())]
        for part, held in zip(parts, gather({"gradient": parameter.grad}), strict=True):
            part.put(whole, held["gradient"])
        found.append(float((whole - wanted[name]).abs().max()))
    return found


def as_it_is(model: nn.Module) -> None:
    return None


def other_heads(model: nn.Module) -> None:
    """Query heads in another order than key heads: what each rank has of both no longer belongs together."""
    for name, parameter in model.named_parameters():
        if name.endswith("query.weight"):
            parameter.data = parameter.data.unflatten(0, (4, -1))[[0, 2, 1, 3]].flatten(0, 1)


def run_models(mesh: Mesh, names: list[str], *, sequence: list[str]) -> list[dict[str, Any]]:
    """Of each model by its name; those of the second list with divided sequences."""
    found: list[dict[str, Any]] = [{}, {}]
    for divided, chosen in enumerate((names, sequence)):
        for name in chosen:
            model, inputs, graph = zoo.traced(name)
            layout = Tensor(sequence=bool(divided))
            found[divided][name] = run(mesh, model, inputs, zoo.squares, layout, as_it_is, graph)
    return found


def run_gpts(mesh: Mesh, both: bool) -> dict[str, Any]:
    found = {}
    for number, (name, settings) in enumerate(GPTS.items()):
        for sequence in (False, True) if both else (number % 2 == mesh.size // 4,):
            layout = Tensor(sequence=sequence)
            found[f"{name} {sequence}"] = run(mesh, *gpt(**settings), cross_entropy, layout, as_it_is)
    found["wrong"] = run(mesh, *gpt(), cross_entropy, Tensor(), other_heads)
    pinned = Tensor(pins={"blocks.0.*.up.weight": None, "blocks.1.*.down.weight": 1})
    found["pinned"] = run(mesh, *gpt(activation="gelu"), cross_entropy, pinned, as_it_is)
    residual = Tensor(pins={"norm.weight": 0})
    found["residual"] = run(mesh, *gpt(activation="gelu"), cross_entropy, residual, as_it_is)
    return found


def run_layers(mesh: Mesh) -> dict[str, list[int]]:
    """Bytes that a rank sends for one, two and three blocks."""
    layouts = {"plain": Tensor(sequence=False), "gelu": Tensor(), "swiglu": Tensor()}
    return {
        name: [run(mesh, *gpt(layers=n, activation=kind), cross_entropy, layout, as_it_is)["sent"] for n in (1, 2, 3)]
        for name, layout in layouts.items()
        for kind in ["gelu" if name == "gelu" else "swiglu"]
    }


def check(found: dict[str, dict[str, Any]]) -> None:
    assert found
    wrong = {name: each for name, each in found.items() if each["loss"] > 1e-12 or not each["gradients"] <= 1e-12}
    assert wrong == {}


@pytest.fixture(scope="module")
def full_list(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def test_models_compute_what_one_process_computes(full_list: bool) -> None:
    names = [*TRANSFORMERS, *OTHERS, "bloom", "phi3"] if full_list else SOME
    arguments = {"names": names, "sequence": ["gpt2", "t5"], "timeout": PATIENCE}
    for whole, divided in run_world(f"{HERE}:run_models", 2, layout={"tensor": 2}, **arguments):
        check(whole)
        check(divided)
        assert {name: each["whole"] for name, each in whole.items() if each["whole"]} == {}
        for name, each in whole.items():
            assert each["sent"] == pytest.approx(each["estimated"], rel=0.15), name


@pytest.mark.parametrize("size", [2, 4])
def test_losses_over_a_divided_vocabulary_and_heads_of_all_kinds(size: int, full_list: bool) -> None:
    layout = {"tensor": size}
    for found in run_world(f"{HERE}:run_gpts", size, layout=layout, both=full_list, timeout=PATIENCE):
        wrong = found.pop("wrong")
        assert wrong["loss"] > 1e-9
        assert wrong["gradients"] > 1e-6
        check(found)


def test_four_ranks_and_divided_sequences(full_list: bool) -> None:
    names = ["gpt-gelu", "convnet", *["gpt2", "t5", "whisper"] * full_list]
    arguments = {"names": [], "sequence": names, "timeout": PATIENCE}
    for _, found in run_world(f"{HERE}:run_models", 4, layout={"tensor": 4}, **arguments):
        check(found)


def test_a_block_sends_what_megatron_sends() -> None:
    activation = 2 * 8 * 16 * 8  # batch, time, width, bytes
    norms = 2 * 16 * 8
    for sent in run_world(f"{HERE}:run_layers", 2, layout={"tensor": 2}, timeout=PATIENCE):
        blocks = {name: [second - first for first, second in pairwise(each)] for name, each in sent.items()}
        assert blocks["plain"] == [4 * activation] * 2  # four all-reduces of 2 (K - 1) / K of an activation each
        # What was divided along time is gathered again for the gradients of weights, the inputs of a block's halves;
        # and the gradients of two norms' weights are summed, too.
        assert blocks["gelu"] == blocks["swiglu"] == [5 * activation + norms] * 2
