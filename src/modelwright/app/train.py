"""The verb ``train``: recipe -> run. Check, prepare, plan, launch, watch, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from torch import nn

from modelwright.app.assemble import prepare
from modelwright.app.check import check_elastic, check_launch, check_model, check_techniques
from modelwright.app.display import announce_plan, announce_run, speaker
from modelwright.app.layout import check_laid_out
from modelwright.app.located import located
from modelwright.app.placing import PRELOAD
from modelwright.app.planner import make_plan
from modelwright.app.probe import LaunchedMeasure
from modelwright.app.session import logged
from modelwright.app.stopping import ended_by_sigterm
from modelwright.app.watch import run_workers
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.events import emit, listening
from modelwright.base.plan import Plan
from modelwright.data import Splits
from modelwright.launch import Warm
from modelwright.models.attention import attention_kernels
from modelwright.objectives.function import FunctionObjective
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import default_plan
from modelwright.recipe import Recipe, load, to_yaml
from modelwright.recipe.own import build_objective
from modelwright.runs import Run, locked, remove
from modelwright.training.checkpoints.storing import open_store


def train(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    folder: Path,
    console: Console,
    name: str | None = None,
) -> Run:
    """Train what a recipe describes, in processes of their own, and record it.

    Args:
        source: a recipe's path, or the name of a shipped one.
        overrides: dotted assignments such as ``optimizer.lr=3e-4``.
        folder: where runs lie.
        console: where progress is shown.
        name: of the run; the recipe's, or a fresh one, where it is ``None``.

    Returns:
        The run: finished, or stopped by a signal and ready to be resumed.

    Raises:
        ModelwrightError: a mistake, found before anything is spent.
        RunFailed: a worker died or training diverged.
    """
    loaded = load(source, overrides)
    recipe = loaded.recipe
    with Warm(PRELOAD) as warm:
        with located(loaded):
            check_launch(recipe, detect())
            check_elastic(recipe.launch, recipe.plan.workers)
        run = Run.create(folder, name or recipe.name, "train")
        with locked(run.path):
            announce_run(console, run)
            with located(loaded), logged(run), listening(speaker(console)), ended_by_sigterm():
                plan = _planned(recipe, run, warm, console)
            announce_plan(console, plan)
            run_workers(run, plan, warm, console, watch=recipe.watch)
    return run


def _planned(recipe: Recipe, run: Run, warm: Warm, console: Console) -> Plan:
    """Check and plan; a mistake found here has cost nothing, so the empty run is taken away again."""
    try:
        run.write_recipe(to_yaml(recipe))
        _check_store(recipe, run)
        with console.status("preparing the data"):
            data = prepare(recipe, run)
        model, cluster = check_model(recipe, data), detect()
        check_techniques(recipe, model, cluster)
        kernels = attention_kernels(model, cluster.device)
        with console.status("measuring plans in the real loop"):
            plan = _plan(recipe, run, data, model, kernels, warm)
    except RunFailed as error:
        run.update(status="failed", error=error)
        raise
    except BaseException:
        remove(run, force=True)
        console.print(f"nothing was trained; the run {escape(run.name)} is taken away again", highlight=False)
        raise
    return plan


def _check_store(recipe: Recipe, run: Run) -> None:
    """Find out now whether checkpoints can be copied to where they are to go."""
    if recipe.saving.to is None:
        return
    try:
        open_store(recipe.saving.to, run.checkpoints).check()
    except ModelwrightError as error:
        error.where = f"saving.to: {error.where or recipe.saving.to}"
        raise


def _plan(recipe: Recipe, run: Run, data: Splits, model: nn.Module, kernels: Sequence[str], warm: Warm) -> Plan:
    request = _exact(recipe)
    usual = default_plan(request, detect(), batch=recipe.batch, kernels=kernels)
    check_laid_out(usual, recipe, model, data)
    plan = make_plan(
        request,
        recipe.budget,
        data,
        detect(),
        LaunchedMeasure(run, warm, recipe.launch.port),
        batch=recipe.batch,
        kernels=kernels,
    )
    return run.write_plan(plan)


def _exact(recipe: Recipe) -> PlanRequest:
    """A function as objective computes its loss itself, in whatever the model hands it: not in bf16 unasked."""
    if recipe.plan.precision != "auto" or not isinstance(build_objective(recipe), FunctionObjective):
        return recipe.plan
    emit("precision-kept", "fp32, because the objective is a function of your own; bf16: plan.precision=bf16")
    return replace(recipe.plan, precision="fp32")
