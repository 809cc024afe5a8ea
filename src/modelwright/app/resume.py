"""The verb ``resume``: go on with a run from its newest whole checkpoint, by its own recipe and plan."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from modelwright.app.display import announce_plan, announce_run
from modelwright.app.placing import PRELOAD
from modelwright.app.trust import check_trust
from modelwright.app.watch import run_workers
from modelwright.app.worker import planned
from modelwright.base.errors import ModelwrightError
from modelwright.launch import Warm
from modelwright.recipe import load_recipe
from modelwright.runs import Run, locked


def resume(name: str, *, folder: Path, console: Console, trust: bool = False) -> Run:
    """Go on with a run that was stopped, interrupted or failed.

    Raises:
        ModelwrightError: the run is finished or still at work, or needs to be trusted first.
    """
    run = Run.open(name, folder)
    with locked(run.path):
        check_resumable(run)
        check_trust(run, trust)
        recipe, plan = load_recipe(run.recipe_path), planned(run)
        announce_run(console, run)
        announce_plan(console, plan)
        with Warm(PRELOAD) as warm:
            run_workers(run, plan, warm, console, port=recipe.launch.port, watch=recipe.watch)
    return run


def check_resumable(run: Run) -> None:
    """Refuse what has nothing left to do, or is being done.

    Raises:
        ModelwrightError: the run is finished, or a process works on it.
    """
    status = run.status()
    if status == "finished":
        raise ModelwrightError(
            f"the run '{run.name}' is finished: there is nothing to resume",
            where=str(run.path),
            remedy="train anew with a larger budget",
        )
    if run.alive():
        raise ModelwrightError(
            f"the run '{run.name}' is still at work",
            where=str(run.path),
            remedy="wait for it, or stop it with Ctrl-C where it runs",
        )
