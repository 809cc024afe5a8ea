"""Divided models under autocast: as near to float32 as one process, and bytes of what is short."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from tests.graph import zoo
from tests.parallel.tensor.models import cross_entropy, gpt
from tests.world import run_world
from torch import nn

from modelwright.base.world import Mesh
from modelwright.graph import trace
from modelwright.parallel.divided import dividing, full
from modelwright.parallel.layouts.tensor import Tensor, divide
from modelwright.parallel.parts import Part
from modelwright.parallel.traffic import Traffic

HERE = "tests.parallel.tensor.test_autocast"
BATCH, TIME, WIDTH = 2, 8, 32
ACTIVATION = BATCH * TIME * WIDTH * 2  # bytes


class Flat(nn.Module):
    """Blocks whose products are of rows, batch and time flattened, and weights that are transposed."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(64, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(layers))
        self.ups = nn.ParameterList(torch.randn(WIDTH, 64) / 6 for _ in range(layers))
        self.biases = nn.ParameterList(torch.zeros(64) for _ in range(layers))
        self.downs = nn.ParameterList(torch.randn(64, WIDTH) / 8 for _ in range(layers))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.embedding(inputs)
        for norm, up, bias, down in zip(self.norms, self.ups, self.biases, self.downs, strict=True):
            hidden = torch.addmm(bias, norm(x).view(-1, WIDTH), up)
            x = x + (nn.functional.gelu(hidden) @ down).view(x.shape)
        return nn.functional.linear(x, self.embedding.weight)


def build(kind: str, layers: int) -> nn.Module:
    if kind == "flat":
        return Flat(layers)
    return gpt(layers=layers, width=WIDTH, vocabulary=64, activation=kind)[0].float()


INPUTS = {"inputs": zoo.tokens(BATCH, TIME, below=64)}
Gradients = dict[str, torch.Tensor]


def gradients(model: nn.Module, short: bool) -> Gradients:
    """Of one process."""
    model = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=short):
        loss = cross_entropy(model(**INPUTS), INPUTS)
    loss.backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def divided(mesh: Mesh, model: nn.Module, layout: Tensor) -> tuple[Gradients, Traffic]:
    """Of all ranks, put together, and what this one sent."""
    group = mesh.axis("tensor")
    decision = layout.decide(trace(model, INPUTS, loss=cross_entropy), group.size)
    model = copy.deepcopy(model)
    pieces = divide(model, decision, group.rank)
    with Traffic() as traffic, dividing(pieces.divisions, layout.axes(mesh)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = full(cross_entropy(model(**INPUTS), INPUTS))
        loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        parts = [Part.from_json(each) for each in group.gather(pieces.parts[name].to_json())]
        found[name] = torch.full(parts[0].shape, torch.nan)
        for part, held in zip(parts, group.gather({"gradient": parameter.grad}), strict=True):
            part.put(found[name], held["gradient"])
    return found, traffic


def error(found: Gradients, exact: Gradients) -> float:
    largest = max(float(each.abs().max()) for each in exact.values())
    return max(float((found[name] - each).abs().max()) for name, each in exact.items()) / largest


def run_kinds(mesh: Mesh) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for kind in ("swiglu", "gelu", "flat"):
        for sequence in (False, True):
            sent = []
            for layers in (1, 2, 3):
                model = build(kind, layers)
                found, traffic = divided(mesh, model, Tensor(sequence=sequence))
                sent.append(sum(one.bytes for one in traffic.sent if one.bytes >= ACTIVATION // 2))
            exact = gradients(model, False)
            errors = [error(found, exact), error(gradients(model, True), exact)]
            out[f"{kind} {sequence}"] = {"sent": [b - a for a, b in pairwise(sent)], "errors": errors}
    return out


def test_sums_and_inputs_travel_short_and_once() -> None:
    """Twice a block's half, and once more of what is gathered: as in float32, of half the bytes."""
    halves = {"swiglu": 2, "gelu": 2, "flat": 1}
    for found in run_world(f"{HERE}:run_kinds", 2, layout={"tensor": 2}):
        for name, each in found.items():
            kind, sequence = name.split()
            passes = 2.5 if sequence == "True" else 2
            assert each["sent"] == [passes * halves[kind] * ACTIVATION] * 2, name
            own, theirs = each["errors"]
            assert 1e-5 < own < 1.5 * theirs, name
