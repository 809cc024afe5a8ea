"""Where the ranks of a plan run, and what the process they are forked from has imported."""

from __future__ import annotations

from modelwright.base.plan import Plan
from modelwright.launch import Placement

# torch imports its compiler at an optimizer's first step, whether it is used or not: once here, not in each rank.
PRELOAD = ("modelwright.app.worker", "modelwright.app.probe", "torch._dynamo")


def placement(plan: Plan, port: int | None) -> Placement:
    """Forked on CPU; begun afresh for CUDA, which must not be forked."""
    return Placement(
        workers=plan.workers, threads=plan.threads, port=port, start="spawn" if plan.device == "cuda" else "fork"
    )
