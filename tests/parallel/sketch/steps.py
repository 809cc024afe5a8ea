"""Steps in any layout: what each rank sends and keeps, counted in a world of ranks and foretold without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.axes import data_ranks
from modelwright.base.choice import import_path
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh, arranged
from modelwright.base.written import chosen
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.models.gpt import GPT, GPTModule
from modelwright.objectives import Objective
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression
from modelwright.optim.sgd import SGD
from modelwright.parallel import EXCHANGES, LAYOUTS
from modelwright.parallel.layouts.replicate import Replicate
from modelwright.parallel.sketch import Sketch, sketch
from modelwright.parallel.traffic import Traffic, along
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training

BATCH, TIME, VOCABULARY, FEATURES = 8, 16, 24, 12
SCALARS, FLAGS = 48, 512  # bytes of counts, losses and norms; of flags of use, which go along shard
Case = dict[str, Any]
"""``layout``; maybe ``settings``, ``exchange``, ``micro_batch``, ``model`` (a name), ``fields`` (of a GPT)."""


class Full(GPTModule):
    """Every position sees all others."""

    def _seen(self, segments: Tensor | None) -> list[Any]:
        return [torch.ones(1, 1, TIME, TIME, dtype=torch.bool, device=self.embedding.weight.device)] * len(self.blocks)


class Blocks(nn.Module):
    """Layers that no language model has, a number by itself, and a size that ranks cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(FEATURES, 17), nn.Linear(17, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(17, 30), nn.Tanh(), nn.Linear(30, 17)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x * self.scale)


def _gpt(**fields: Any) -> nn.Module:
    return GPT(**({"vocabulary": VOCABULARY, "width": 16, "heads": 4, "layers": 2} | fields)).build()


def _full() -> nn.Module:
    return Full(GPT(width=16, heads=4, layers=2), VOCABULARY)


def _llama() -> nn.Module:
    made: Callable[[], nn.Module] = import_path("tests.parallel.sketch.llama:llama")
    return made()


def _tokens() -> dict[str, Tensor]:
    tokens = torch.randint(VOCABULARY, (4 * BATCH, TIME + 1), generator=torch.Generator().manual_seed(7))
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:].clone()}


def _numbers() -> dict[str, Tensor]:
    numbers = torch.rand(4 * BATCH, FEATURES + 2, generator=torch.Generator().manual_seed(7))
    return {"inputs": numbers[:, :FEATURES], "targets": numbers[:, FEATURES:].clone()}


def made(case: Case) -> tuple[nn.Module, Objective, dict[str, Tensor]]:
    """A case's model, what it is trained for, and samples."""
    torch.manual_seed(1)
    if case.get("model") == "blocks":
        return Blocks(), Regression(), _numbers()
    models: dict[str, Callable[..., nn.Module]] = {"gpt": _gpt, "full": _full, "llama": _llama}
    return models[case.get("model", "gpt")](**case.get("fields", {})), NextToken(), _tokens()


def prepared(mesh: Mesh, case: Case) -> Prepared:
    """The training on this rank."""
    model, objective, samples = made(case)
    training = Training(
        model=model,
        data=Splits(train=InMemory(samples), held_out=None),
        objective=objective,
        optimizer=SGD(lr=0.01),
        batch=BATCH,
        seed=3,
        budget=Budget(steps=2),
    )
    plan = Plan(
        workers=mesh.size,
        layout=case["layout"],
        layouts=case.get("settings", {}),
        exchange=case.get("exchange", "all-reduce"),
        micro_batch=case.get("micro_batch", 2),
        precision="fp32",
        steps=2,
    )
    return Prepared(training, plan, mesh)


def counted(mesh: Mesh, cases: list[Case]) -> list[dict[str, Any]]:
    """Of each case the bytes that this rank sends in the second step, by kind and axis, and those that it keeps."""
    found = []
    for case in cases:
        places = arranged(mesh, case["layout"])
        training = prepared(places, case)
        with Traffic() as traffic:
            steps = training.steps(lambda: False)
            next(steps)
            before = len(traffic.sent)
            next(steps)
        sums: dict[str, float] = {}
        for one in traffic.sent[before:]:
            axes = along(places, one.members)
            least = {"all-reduce": FLAGS if "shard" in axes else SCALARS, "all-gather": SCALARS}.get(one.kind, 0)
            if one.bytes > least:
                key = f"{one.kind} {'+'.join(axes)}"
                sums[key] = sums.get(key, 0.0) + one.bytes
        kept = sum(parameter.nbytes for parameter in training.program.held.names())
        found.append({"sent": sums, "kept": kept})
    return found


def foretold(case: Case, **changes: Any) -> Sketch:
    """The sketch of a case, or of one that is changed."""
    case = case | changes
    model, objective, samples = made(case)
    share = BATCH // data_ranks(case["layout"])
    micro_batch = min(case.get("micro_batch", 2), share)
    example = {name: value[:micro_batch] for name, value in samples.items()}
    settings = case.get("settings", {})
    layouts = {axis: chosen({"use": axis, **settings.get(axis, {})}, LAYOUTS) for axis in case["layout"]}
    exchange = case.get("exchange", "all-reduce")
    layouts["replicate"] = Replicate(exchange=chosen(exchange, EXCHANGES))
    return sketch(model, objective, example, case["layout"], layouts, rounds=math.ceil(share / micro_batch))


def differences(case: Case, told: list[dict[str, Any]], found: Sketch) -> list[str]:
    """Where what ranks sent and keep is not what is foretold, in words."""
    kinds = sorted({kind for rank in told for kind in rank["sent"]} | found.by_rank.keys())
    rows = [(kind, [rank["sent"].get(kind, 0.0) for rank in told], found.by_rank.get(kind)) for kind in kinds]
    rows.append(("kept", [rank["kept"] for rank in told], found.parameters))
    wrong = []
    for kind, real, sketched in rows:
        expected = [0.0] * len(told) if sketched is None else sketched.flatten().tolist()
        if expected != pytest.approx(real, rel=1e-12, abs=1e-6):
            wrong.append(f"{case}: {kind}: {real}, foretold {expected}")
    return wrong
