"""From a recipe to a plan: detect the machine, measure the candidates, turn the budget into steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelwright.base.axes import product_text
from modelwright.base.cluster import Cluster
from modelwright.base.plan import Plan
from modelwright.base.units import count_text, seconds_text
from modelwright.data import Splits
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import Measure, choose, choose_compiled, default_plan, measured
from modelwright.training.budget import steps_of
from modelwright.training.settings import Budget

COMPILING_PAYS = 1800.0  # Seconds of training from which it is worth a minute or two to find out.


def make_plan(
    request: PlanRequest,
    budget: Budget,
    data: Splits,
    cluster: Cluster,
    measure: Measure,
    *,
    batch: int,
    kernels: Sequence[str],
) -> Plan:
    """The plan that a run executes as written.

    Without ``request.measure`` nothing is measured, except the step time that a budget of time needs.

    Raises:
        ModelwrightError: nothing fits, or the budget cannot be turned into steps.
    """
    if request.measure:
        plan = choose(request, cluster, batch=batch, kernels=kernels, measure=measure)
    else:
        plan = default_plan(request, cluster, batch=batch, kernels=kernels)
        if budget.time is not None:
            plan = measured(plan, measure(plan), batch)
    seconds = plan.prediction.step_seconds if plan.prediction else None
    steps = steps_of(budget, batch=batch, dataset=data.train, step_seconds=seconds)
    if request.measure and request.compile == "auto" and seconds is not None and steps * seconds > COMPILING_PAYS:
        plan = choose_compiled(plan, batch=batch, measure=measure)
        if budget.time is not None and plan.prediction is not None:
            seconds = plan.prediction.step_seconds
            steps = steps_of(budget, batch=batch, dataset=data.train, step_seconds=seconds)
    return replace(plan, steps=steps)


def describe(plan: Plan) -> str:
    """The plan in one line, with what it should take."""
    parts = [
        f"{_workers(plan)} x {plan.threads} thread{'s' * (plan.threads > 1)}",
        f"micro-batch {plan.micro_batch}",
        plan.precision,
        *([f"{plan.attention} attention"] if plan.attention else []),
        *([f"recompute {plan.recompute}"] if plan.recompute != "none" else []),
        *(["compiled"] if plan.compile else []),
        *(["moments offloaded"] if plan.offload != "none" else []),
        f"{count_text(plan.steps)} steps",
    ]
    if plan.prediction:
        parts.append(f"about {seconds_text(plan.steps * plan.prediction.step_seconds)}")
    return ", ".join(parts)


def _workers(plan: Plan) -> str:
    """With the layout, where it is more than replicas."""
    many = f"{plan.workers} worker{'s' * (plan.workers > 1)}"
    layout = {axis: size for axis, size in plan.layout.items() if size > 1}
    return many if layout.keys() <= {"replicate"} else f"{many} ({product_text(layout)})"
