"""The plan of a run that goes on otherwise: with other workers, threads, micro-batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from modelwright.app.worker import planned
from modelwright.base.axes import fitted, product_text
from modelwright.base.cluster import Cluster
from modelwright.base.events import emit
from modelwright.base.files import read_json
from modelwright.base.plan import Plan
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import default_plan
from modelwright.recipe.changes import Change, below
from modelwright.recipe.schema import Launch
from modelwright.runs import Run

INEXACT = (
    *("workers", "layout", "layouts", "threads", "micro_batch"),
    *("attention", "compile", "precision", "device", "exchange"),
)
"""Fields of a plan with which sums are added up in another order: results agree, but not in every bit."""
EXACT = ("recompute", "offload")
"""Fields of a plan that change no bit of any result."""
REFORMED = "re-formed"
"""Among the reasons of a plan that was made for want of workers, by :mod:`modelwright.app.elastic`."""
# Dropout is drawn for each rank, one micro-batch after another, by the kernels in use.
_DRAWN = ("workers", "micro_batch", "attention", "compile")


def revised(
    plan: Plan,
    wished: PlanRequest,
    fields: Collection[str],
    *,
    batch: int,
    cluster: Cluster,
    kernels: Sequence[str] = (),
) -> Plan:
    """The plan with some fields as they are wished now; nothing is measured, so ``auto`` takes the usual value.

    With the workers, the threads change where they were not fixed; micro-batches stay as large as the share allows, or
    are what the recipe fixes.

    Args:
        plan: by which the run went so far.
        wished: the wishes as they are now.
        fields: names of the wishes that changed.
        batch: samples per step over all workers.
        cluster: this machine.
        kernels: attention kernels the model offers; needed where ``attention`` changed.

    Raises:
        ModelwrightError: more workers than samples in a batch or than the machine can run, or no such kernel.
    """
    if not fields and plan.micro_batch <= -(-batch // plan.shares):
        return plan
    request = replace(
        wished,
        workers=wished.workers if {"workers", "layout"} & set(fields) else plan.workers,
        attention=wished.attention if "attention" in fields else "auto",
    )
    usual = default_plan(request, cluster, batch=batch, kernels=kernels)
    taken = set(fields) & {*INEXACT, *EXACT}
    if usual.workers != plan.workers:
        taken |= {"layout", "threads"} if wished.threads == "auto" else {"layout"}
    if "layout" in taken:
        taken |= {"workers", "layouts"}
    values = {name: getattr(usual, name) for name in taken}
    if "micro_batch" not in taken:
        fixed = wished.micro_batch != "auto"
        most = min(plan.micro_batch, usual.micro_batch)
        values["micro_batch"] = usual.micro_batch if fixed else fitted(most, usual.layout, batch)
    new = replace(plan, **values)
    return plan if new == plan else replace(new, prediction=None, reasons={**plan.reasons, **_reasons(plan, new)})


def fields_of(found: Iterable[Change]) -> set[str]:
    """Names of the wishes about the plan that changed; a list, such as that of ``recompute``, counts as one."""
    return {change.path.split(".")[1] for change in found if below(change.path, ("plan",))} - {"measure"}


def whole_plan(run: Run, launch: Launch) -> Plan:
    """The run's newest plan; where it may lose workers, the newest that was not made for want of some.

    Raises:
        ModelwrightError: there is none.
    """
    plan = planned(run)
    while launch.min is not None and REFORMED in plan.reasons and plan.number > 1:
        older = run.path / f"plan-{plan.number - 1}.json"
        plan = Plan.from_json(read_json(older), where=str(older))
    return plan


def differing(old: Plan, new: Plan) -> list[str]:
    """Names of the fields that say how the job runs and are others."""
    names = [name for name in (*INEXACT, *EXACT) if getattr(old, name) != getattr(new, name)]
    replicas_only = old.layout.keys() | new.layout.keys() <= {"replicate"}
    return [name for name in names if not (name == "layout" and replicas_only)]  # whose number the workers tell


def tell(old: Plan, new: Plan, step: int) -> None:
    """Say how the run goes on otherwise after ``step``, and whether it is still the same in every bit."""
    names = differing(old, new)
    if not names:
        return
    listed = ", ".join(f"{name} {_shown(new, name)} instead of {_shown(old, name)}" for name in names)
    changed = {name: [getattr(old, name), getattr(new, name)] for name in names}
    inexact = [name for name in names if name in INEXACT or (name == "recompute" and new.compile)]
    if not inexact:
        what = f"after step {step} the run goes on with {listed}, which changes no bit of any result"
        emit("replanned", what, step=step, exact=True, changed=changed, plan=new.number)
        return
    drawn = "; dropout, if there is any, draws other numbers" if set(inexact) & set(_DRAWN) else ""
    if {"workers", "micro_batch"} & set(inexact):
        drawn += "; batch norm, if there is any, takes its statistics over other samples, which is another training"
    what = (
        f"after step {step} the run goes on with {listed}: the same samples in the same order, but sums are added up "
        f"in another order, so from there on it is no longer the run as begun in every bit ({', '.join(inexact)})"
    )
    emit("replanned", what + drawn, level="warning", step=step, exact=False, changed=changed, plan=new.number)


def _reasons(old: Plan, new: Plan) -> dict[str, str]:
    return {name: f"resumed; it was {_shown(old, name)}" for name in differing(old, new)}


def _shown(plan: Plan, name: str) -> str:
    value = getattr(plan, name)
    if name == "layout":
        return product_text(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
