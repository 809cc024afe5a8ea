"""How many of the workers that are left can go on: whole replicas, among which the batch can be shared."""

from __future__ import annotations

from dataclasses import replace

from modelwright.app.replan import REFORMED
from modelwright.base.axes import fitted, resized
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.parallel.products import Product, check_product


def usable(whole: Plan, left: int, batch: int) -> tuple[int, str]:
    """The most workers that can go on, and what hinders more of them.

    Args:
        whole: plan of all workers.
        left: workers that there are.
        batch: samples of a step.

    Returns:
        Their number, 0 where none can; and the reason why not all of ``left`` do, empty where they all do.
    """
    hindrance = ""
    for workers in range(left, 0, -1):
        try:
            _check(smaller(whole, workers, batch), batch)
        except ModelwrightError as error:
            hindrance = hindrance or str(error).splitlines()[0]
        else:
            return workers, hindrance
    return 0, hindrance


def smaller(whole: Plan, workers: int, batch: int) -> Plan:
    """The same plan for another number of workers: more or fewer replicas.

    The micro-batch fits in memory and stays, there are more of them; but in a pipeline it has to divide a share.

    Raises:
        ModelwrightError: they make up no whole replicas.
    """
    if workers == whole.workers:
        return whole
    layout = resized(whole.layout, workers)
    return replace(
        whole,
        workers=workers,
        layout=layout,
        micro_batch=fitted(whole.micro_batch, layout, batch),
        prediction=None,
        reasons={**whole.reasons, REFORMED: f"{workers} of {whole.workers} workers"},
    )


def _check(plan: Plan, batch: int) -> None:
    """Of what is refused only this hangs on the number of replicas."""
    check_product(Product(sizes=plan.layout, settings=plan.layouts, batch=batch, micro_batch=plan.micro_batch))
