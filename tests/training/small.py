"""Small trainings in float64 that take milliseconds, for tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.base.events import Event, listening
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Dataset, Splits
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.objectives.classification import Classification
from modelwright.optim.adamw import AdamW
from modelwright.optim.muon import Muon
from modelwright.optim.sgd import SGD
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.steps import Step
from modelwright.training.training import Training

BATCH, FEATURES, CLASSES, SEED = 6, 5, 4, 11
TECHNIQUES = {
    "sgd": SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    "muon": Muon(lr=0.02, weight_decay=0.1, adamw_weight_decay=0.1, adamw_names=("2.*",)),
}


def alone() -> Mesh:
    """A world of one."""
    return Mesh(Group(0, 1), torch.device("cpu"), {"replicate": Group(0, 1)})


def points(samples: int = 60, targets: int = 3) -> dict[str, Tensor]:
    """``inputs [samples, targets, features]``; ``targets [samples, targets]``, about a third of them ignored."""
    random = np.random.default_rng(5)
    inputs = random.normal(size=(samples, targets, FEATURES))
    classes = (inputs @ random.normal(size=(FEATURES, CLASSES))).argmax(axis=-1)
    classes[random.random((samples, targets)) < 0.3] = -100
    return {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(classes)}


def at(position: int, samples: int = 60) -> int:
    """The sample that is drawn at a position."""
    return int(Order(samples, seed=SEED)([position])[0])


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers[:2], *([nn.Dropout(dropout)] if dropout else []), *layers[2:]).double()


def prepare(
    data: Dataset | dict[str, Tensor],
    mesh: Mesh | None = None,
    *,
    held_out: Dataset | None = None,
    total: int = 10,
    micro_batch: int = BATCH,
    layout: dict[str, int] | None = None,
    **fields: Any,
) -> Prepared:
    """A training of ``total`` steps of ``BATCH`` samples."""
    mesh = mesh or alone()
    dataset = InMemory(data) if isinstance(data, dict) else data
    settings: dict[str, Any] = {
        "model": network(),
        "data": Splits(train=dataset, held_out=held_out),
        "objective": Classification(),
        "optimizer": TECHNIQUES["adamw"],
        "batch": BATCH,
        "seed": SEED,
        "budget": Budget(steps=total),
        **fields,
    }
    sizes = layout or {"replicate": mesh.size}
    plan = Plan(workers=mesh.size, layout=sizes, micro_batch=micro_batch, steps=total)
    return Prepared(Training(**settings), plan, mesh)


def stepping(prepared: Prepared, stop: Any = lambda: False) -> Iterator[Step]:
    return prepared.steps(stop)


def snapshot(prepared: Prepared) -> dict[str, Tensor]:
    """Copies of weights and moments."""
    state = prepared.state
    tensors = {f"model/{name}": value for name, value in state.model_tensors().items()}
    tensors |= {f"optimizer/{name}": value for name, value in state.optimizer_tensors().items()}
    return {name: value.detach().clone() for name, value in tensors.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two snapshots agree in every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].numpy().tobytes() == other[name].numpy().tobytes()
        for name in one
    )


@contextmanager
def heard() -> Iterator[list[Event]]:
    """The events emitted inside the block."""
    events: list[Event] = []
    with listening(events.append):
        yield events
