"""Laying out: the layouts of a plan applied to a program, in the one order that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.base.written import chosen
from modelwright.parallel import LAYOUTS, ExchangeTechnique
from modelwright.parallel.dividing import divide_computation
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.layouts.replicate import Replicate, equalise, say_what_is_inexact
from modelwright.parallel.norm import divided_norm
from modelwright.parallel.program import LocalProgram

Layouts = Mapping[str, Any]
"""The configured technique of each axis that has several ranks."""

_MODEL_AXES = ("pipeline", "shard", "expert", "tensor")
_SHARING_AXES = ("context", "tensor")
_REPLICAS = ("replicate", "context")


def layouts_of(plan: Plan) -> dict[str, Any]:
    """The techniques of a plan's axes.

    Raises:
        ModelwrightError: one does not take its settings.
    """
    return {
        axis: chosen({"use": axis, **plan.layouts.get(axis, {})}, LAYOUTS)
        for axis, size in plan.layout.items()
        if size > 1 and axis != "replicate"
    }


def lay_out(
    program: LocalProgram,
    mesh: Mesh,
    layouts: Layouts,
    *,
    exchange: ExchangeTechnique,
    example: Callable[[], Mapping[str, Tensor]],
    settle: Callable[[], None],
) -> LocalProgram:
    """The program as this rank runs it; a collective.

    What is computed is divided first (tensor, context, expert), then cut into stages; of what is left here ``settle``
    says what is recomputed and compiled; then parameters are sharded, and replicas connected.

    Args:
        program: whole.
        mesh: has the axes of ``layouts``.
        layouts: of the other axes than replicate.
        exchange: how updates travel between replicas.
        example: a micro-batch, of which shapes and types matter.
        settle: called on every rank.

    Raises:
        ModelwrightError: the model cannot be laid out so, with the reason.
    """
    if not layouts:
        settle()
        return Replicate(exchange=exchange).apply(program, mesh)
    equalise(program.model, mesh.world)
    say_what_is_inexact(program.model, mesh.data)
    program.contributes = all(mesh.axis(axis).rank == 0 for axis in _SHARING_AXES)
    program.replicas = mesh.data
    program.in_step = any(axis in layouts for axis in ("shard", "expert"))
    if "tensor" in layouts or "context" in layouts:
        divide_computation(program, mesh, layouts.get("tensor"), layouts.get("context"), example)
    if "expert" in layouts:
        program = layouts["expert"].apply(program, mesh)
    for parameter, division in program.divisions.items():  # copies in a shorter type take it along
        parameter._division = division  # type: ignore[attr-defined]
    if "pipeline" in layouts:
        program = layouts["pipeline"].apply(program, mesh, example())
    settle()
    summed = "shard" in layouts and "expert" not in layouts and isinstance(exchange, AllReduce)
    if "expert" in layouts:
        layouts["expert"].connect(program, mesh, exchange, _REPLICAS)
    elif not summed:
        Replicate(exchange=exchange).connect(program, mesh.along(*_REPLICAS))
    if "shard" in layouts:  # torch sums over replicas while the backward computes, where all-reduce is wanted
        program = layouts["shard"].apply(program, mesh, _REPLICAS if summed else ())
    program.together = mesh.along(*_MODEL_AXES)
    program.norm_of = divided_norm(program.held, program.together)
    return program
