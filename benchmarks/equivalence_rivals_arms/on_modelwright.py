"""modelwright: any layout of its mesh, by the plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import job
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import modelwright as mw
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.objectives.next_token import NextToken
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.sgd import SGD
from modelwright.planning.request import PlanRequest
from modelwright.runs.metrics import read_metrics

PIPELINED = 2  # samples of a micro-batch, so that a step has several


def train(cell: job.Cell) -> job.Outcome:
    model = job.model(cell.condition)
    result = mw.train(
        model,
        in_order(cell.condition),
        objective=NextToken(),
        optimizer=SGD(lr=job.RATE),
        schedule=Constant(),
        batch=job.BATCH,
        budget=f"{job.STEPS} steps",
        clip=cell.condition.clip or 1e9,
        precision="bf16" if cell.condition.autocast else "fp32",
        plan=PlanRequest(micro_batch=micro_batch(cell), layout=layout(cell), measure=False),
        run=Path(os.environ["EQUIVALENCE_FOLDER"]) / "run",
        quiet=True,
    )
    if int(os.environ["RANK"]) > 0:
        return job.Outcome()
    rows = [row for row in read_metrics(result.run.metrics_path) if row["kind"] == "step"]
    return job.Outcome(
        losses=[row["loss"] for row in rows],
        norms=[row["gradient_norm"] for row in rows],
        weights=load_file(result.run.path / "artifacts" / "model.safetensors"),
        held=job.held(model, cell.condition),
    )


def micro_batch(cell: job.Cell) -> int:
    return PIPELINED // cell.condition.accumulation if cell.size("pipeline") > 1 else cell.micro_batch


def layout(cell: job.Cell) -> dict[str, Any]:
    """With the settings that a row names, such as ``shard.stage=1``."""
    found: dict[str, Any] = {axis: {"size": size} for axis, size in cell.layout.items()}
    for words in cell.setting.split():
        place, _, value = words.partition("=")
        axis, _, name = place.partition(".")
        found[axis][name] = int(value) if value.isdigit() else {"true": True, "false": False}.get(value, value)
    return found


def in_order(condition: job.Condition) -> InMemory:
    """Samples at such indices that the shuffled order brings them back to theirs."""
    sequences = job.Sequences(condition)
    shuffled = Order(len(sequences), seed=0)(np.arange(len(sequences)))
    places = torch.as_tensor(np.argsort(shuffled))
    targets = functional.pad(sequences.labels, (0, 1), value=job.IGNORED)[:, 1:]
    fields: dict[str, Tensor] = {"inputs": sequences.tokens[places], "targets": targets[places].contiguous()}
    return InMemory(fields)
