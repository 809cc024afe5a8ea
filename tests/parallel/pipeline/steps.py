"""Train a few steps in a pipeline and in one process, and say how far they are apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tests.parallel.pipeline.models import make
from torch import Tensor

from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.parallel.layouts.pipeline import Pipeline
from modelwright.parallel.layouts.replicate import Replicate
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import set_recompute

CPU = torch.device("cpu")
STEPS = 3
Batch = dict[str, Tensor]
Case = dict[str, Any]
Record = dict[str, Any]


def micro_batches(batch: Any, step: int, count: int, replicas: Iterable[int]) -> list[Batch]:
    """Those of some replicas: alike in shape within a step, of other shapes in the last step."""
    found: list[Batch] = []
    for replica in replicas:
        torch.manual_seed(100 + step + 1000 * replica)
        found += [batch(2 if step < STEPS - 1 else 3) for _ in range(count)]
    return found


def optimizer(name: str, program: LocalProgram) -> torch.optim.Optimizer:
    """Over what this rank trains."""
    if name == "sgd":
        return torch.optim.SGD(program.parameters(), lr=0.1, momentum=0.9)
    return torch.optim.AdamW(program.parameters(), lr=0.01, eps=1e-3)


def train(program: LocalProgram, batch: Any, case: Case, replicas: Iterable[int], world: Group) -> Record:
    """Losses of each step, gradients of the last, weights at the end; by name, of what this rank holds."""
    stepper = optimizer(case.get("optim", "adamw"), program)
    losses, norms = [], []
    for step in range(STEPS):
        batches = micro_batches(batch, step, case["micro_batches"], replicas)
        counts = {term: world.all_reduce(count.clone()) for term, count in program.counts(batches).items()}
        totals = program.forward_backward(batches, counts)
        program.exchange.before_step()
        losses += [float(world.all_reduce(total.clone()) / counts[term]) for term, total in totals.items()]
        norms.append(float(program.norm(program.parameters())))
        names = program.held.names()
        gradients = {names[each]: each.grad.clone() for each in program.parameters() if each.grad is not None}
        stepper.step()
        stepper.zero_grad(set_to_none=True)
    weights = {name: value.detach().clone() for name, value in program.tensors().items()}
    return {"losses": losses, "norms": norms, "gradients": gradients, "weights": weights}


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of tensors of the same names, against the largest number of each."""
    differences = [0.0]
    for name, value in found.items():
        scale = max(1e-3, float(wanted[name].abs().max()))
        differences.append(float((value - wanted[name]).abs().max()) / scale)
    return max(differences)


def build(mesh: Mesh, case: Case) -> tuple[LocalProgram, Any]:
    """A case's program on this rank, and what makes its batches."""
    model, objective, batch = make(case["model"])
    model = model if "precision" not in case else model.float()
    program = LocalProgram(model, objective, device=CPU, precision=case.get("precision", "fp32"))
    set_recompute(program.model, case.get("recompute", "none"))
    if "replicate" in mesh.axes:
        program = Replicate().apply(program, mesh)
    layout = Pipeline(schedule=case.get("schedule", "1f1b"), stages_per_rank=case.get("stages_per_rank"))
    return layout.apply(program, mesh, batch(2)), batch


def reference(case: Case, replicas: int = 1) -> tuple[LocalProgram, Record]:
    """The same in one process."""
    model, objective, batch = make(case["model"])
    model = model if "precision" not in case else model.float()
    program = LocalProgram(model, objective, device=CPU, precision=case.get("precision", "fp32"))
    return program, train(program, batch, case, range(replicas), Group(0, 1))


def compare(mesh: Mesh, cases: list[Case]) -> list[dict[str, Any]]:
    """For each case how far the pipeline is from one process."""
    return [compared(mesh, case) for case in cases]


def compared(mesh: Mesh, case: Case) -> dict[str, Any]:
    """How far losses, norms, gradients and weights are apart, and which of them this rank has."""
    replicas = mesh.axes.get("replicate", Group(0, 1))
    _, wanted = reference(case, replicas.size)
    program, batch = build(mesh, case)
    found = train(program, batch, case, [replicas.rank], mesh.world)
    return {
        "losses": largest(found["losses"], wanted["losses"]),
        "norms": largest(found["norms"], wanted["norms"]),
        "gradients": apart(found["gradients"], wanted["gradients"]),
        "weights": apart(found["weights"], wanted["weights"]),
        "moved": apart(wanted["weights"], dict(make(case["model"])[0].state_dict())),
        "types": sorted({str(dtype) for _, dtype in program.place_in.shapes.of(batch(2), True).values()}),
        "held": sorted(found["weights"]),
        "learnt": sorted(found["gradients"]),
        "all": sorted(wanted["weights"]),
        "all_learnt": sorted(wanted["gradients"]),
    }


def largest(found: list[float], wanted: list[float]) -> float:
    """Difference."""
    return max(abs(one - other) for one, other in zip(found, wanted, strict=True))
