"""What a program computes, divided over the axes tensor and context: its code stays, its tensors are pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.world import Mesh
from modelwright.graph import trace
from modelwright.parallel.divided import Axes, Division, Sequence, dividing, full, whole
from modelwright.parallel.layouts.context import Context, dividing_inputs
from modelwright.parallel.layouts.tensor import Tensor, divide
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.tensor import Decision

Batch = Mapping[str, torch.Tensor]


def divide_computation(
    program: LocalProgram, mesh: Mesh, tensor: Tensor | None, context: Context | None, example: Callable[[], Batch]
) -> None:
    """Leave of the program's parameters this rank's pieces, and let it compute with them, in place; a collective.

    Raises:
        ModelwrightError: the model cannot be traced, or ranks would divide it in different ways.
    """
    axes = Axes.of(mesh, sequence=Sequence("tensor", 1) if tensor is not None and tensor.sequence else None)
    divisions: Mapping[torch.Tensor, Division] = {p: whole(tuple(p.shape)) for p in program.model.parameters()}
    if tensor is not None:
        decision = _decided(program, mesh, tensor, example())
        pieces = divide(program.model, decision, mesh.axis("tensor").rank)
        program.held.divide(pieces.parts)
        divisions = pieces.divisions
    program.divisions = divisions
    program.surroundings.append(lambda: dividing(divisions, axes, deferred=("context",)))
    if context is not None:
        program.surroundings += [lambda: dividing_inputs(program.model, axes), context.attending]
    program.whole = full


def _decided(program: LocalProgram, mesh: Mesh, tensor: Tensor, example: Batch) -> Decision:
    graph = trace(program.model, dict(example), forward=program.objective.forward, loss=program.objective.loss)
    decision = tensor.decide(graph, mesh.axis("tensor").size)
    told = mesh.world.gather({name: repr(division) for name, division in decision.divisions.items()})
    if any(other != told[0] for other in told):
        raise ModelwrightError(
            "the ranks would divide the model in different ways",
            where="plan.layout.tensor",
            remedy="let the model be built the same on every rank, whatever its rank",
        )
    if mesh.rank == 0:
        _tell(decision)
    return decision


def _tell(decision: Decision) -> None:
    whole = [row.name for row in decision.whole]
    emit(
        "tensor",
        f"{len(decision.divisions)} parameters are divided over {decision.size} workers; whole on each: "
        f"{', '.join(whole) or 'none'}",
        table=decision.text(),
        sent=decision.sent,
    )
