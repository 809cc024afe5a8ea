"""Measuring a plan in launched processes: what the ranks run, and what the command that asked sees."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from pathlib import Path

from modelwright.app.assemble import assemble
from modelwright.app.failing import short_of_memory
from modelwright.app.placing import placement
from modelwright.base.errors import RunFailed
from modelwright.base.files import make_folder, read_json, write_json
from modelwright.base.plan import Plan
from modelwright.base.world import world
from modelwright.launch import Warm, raise_failure, start
from modelwright.planning.search import Measurement
from modelwright.runs import Run
from modelwright.training.measure import measure
from modelwright.training.prepared import Prepared

PATIENCE_SECONDS = 300.0


class LaunchedMeasure:
    """Measures plans as they would run: in as many processes, each with its threads, on the real data.

    What was measured stays in the run, one folder per plan.
    """

    def __init__(self, run: Run, warm: Warm, port: int | None = None) -> None:
        self._folder = run.path / "measurements"
        self._run, self._warm, self._port = run, warm, port
        self._numbers = itertools.count(1)

    def __call__(self, plan: Plan, limit: float = math.inf) -> Measurement:
        """Launch the ranks, wait for them, read what they found.

        Raises:
            ModelwrightError: a rank failed, for example for want of memory.
        """
        folder = self._folder / str(next(self._numbers))
        make_folder(folder)
        write_json(folder / "plan.json", plan.to_json())
        where = placement(plan, self._port)
        arguments = [str(self._run.path), str(folder), str(limit)]
        with start("modelwright.app.probe", arguments, where, logs=folder, warm=self._warm) as job:
            status = job.wait(PATIENCE_SECONDS)
            if status.failure is not None:
                raise_failure(status.failure)
            if status.state != "finished":
                raise RunFailed(f"measuring took more than {PATIENCE_SECONDS:.0f} s", where=str(folder))
        return Measurement(**read_json(folder / "measurement.json"))


def main(arguments: list[str]) -> None:
    """One rank of a measurement: ``arguments`` are the run's path, the measurement's folder and the limit."""
    run, folder, limit = Run.open(Path(arguments[0])), Path(arguments[1]), float(arguments[2])
    plan = Plan.from_json(read_json(folder / "plan.json"))
    with short_of_memory(), world(plan.layout, device=plan.device) as mesh:
        found = measure(Prepared(assemble(run), plan, mesh), limit=limit)
        if mesh.rank == 0:
            write_json(folder / "measurement.json", asdict(found))
