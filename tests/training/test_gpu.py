"""What only a GPU can show: the loop there trains as on the CPU, waits for nothing, and masks without a sync."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.objectives.classification import Classification
from modelwright.optim import OptimizerTechnique
from modelwright.optim.adamw import AdamW
from modelwright.optim.muon import Muon
from modelwright.optim.schedules.constant import Constant
from modelwright.training.reading import Reading
from modelwright.training.settings import Budget
from modelwright.training.steps import Step
from modelwright.training.training import Prepared, Training

pytestmark = pytest.mark.gpu

STEPS, BATCH = 20, 16


def prepared(device: str, optimizer: OptimizerTechnique, *, poisoned: int | None = None) -> Prepared:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.randn(STEPS * BATCH, 8)
    if poisoned is not None:
        inputs[poisoned] = float("inf")
    data = Splits(train=InMemory({"inputs": inputs, "targets": torch.randint(4, (STEPS * BATCH,))}))
    training = Training(
        model=model,
        data=data,
        objective=Classification(),
        optimizer=optimizer,
        schedule=Constant(),
        batch=BATCH,
        budget=Budget(steps=STEPS),
    )
    alone = Group(0, 1)
    mesh = Mesh(alone, torch.device(device), {"replicate": alone})
    return Prepared(training, Plan(micro_batch=4, steps=STEPS), mesh)


def run(job: Prepared) -> list[Step]:
    return [record for record in job.run(None, lambda: False) if isinstance(record, Step)]


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_losses_are_those_of_the_cpu(optimizer: OptimizerTechnique) -> None:
    there, here = (run(prepared(device, optimizer)) for device in ("cuda", "cpu"))
    for gpu, cpu in zip(there, here, strict=True):
        assert gpu.losses["cross-entropy"] == pytest.approx(cpu.losses["cross-entropy"], rel=2e-2)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_a_poisoned_step_is_masked_and_leaves_the_weights_finite(optimizer: OptimizerTechnique) -> None:
    job = prepared("cuda", optimizer, poisoned=100)
    taken = run(job)
    assert sum(step.masked for step in taken) == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in job.program.tensors().values())


def test_a_step_never_waits_for_the_device() -> None:
    job = prepared("cuda", AdamW())
    iterator = job.run(None, lambda: False)
    for _ in range(3):
        next(iterator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(iterator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_reading_arrives_later() -> None:
    reading = Reading([torch.ones((), device="cuda"), torch.full((), 2.5, device="cuda")])
    assert reading.values() == [1.0, 2.5]
    assert reading.immediate
