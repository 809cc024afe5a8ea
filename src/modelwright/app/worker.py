"""What launched processes run: one rank of a training, from the run's directory alone."""

from __future__ import annotations

from pathlib import Path

from modelwright.app.assemble import assemble
from modelwright.app.failing import short_of_memory
from modelwright.app.session import logged, run_training
from modelwright.app.stopping import stop_requested
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.base.world import world
from modelwright.runs import Run
from modelwright.training.prepared import Prepared


def main(arguments: list[str]) -> None:
    """Train the run in ``arguments[0]`` by its recipe and its newest plan, from its newest checkpoint.

    Raises:
        ModelwrightError: the run has no plan, or training failed.
    """
    run = Run.open(Path(arguments[0]))
    plan = planned(run)
    # From the very first: a stop that one rank heard and another died of would look like a failure.
    with stop_requested() as stop, world(plan.layout, device=plan.device) as mesh:
        with logged(run, mesh.rank), short_of_memory():
            prepared = Prepared(assemble(run), plan, mesh)
        run_training(prepared, run, stop=stop)


def planned(run: Run) -> Plan:
    """The run's newest plan.

    Raises:
        ModelwrightError: there is none.
    """
    plan = run.plan()
    if plan is None:
        raise ModelwrightError(
            "the run has no plan.json", where=str(run.path), remedy="start it anew: modelwright train"
        )
    return plan
