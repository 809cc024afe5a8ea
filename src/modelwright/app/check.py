"""Find what cannot work before anything is spent: on the meta device, without memory or time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn

from modelwright.app.elastic import check_sizes
from modelwright.base.axes import data_ranks
from modelwright.base.cluster import Cluster
from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matching
from modelwright.data import Dataset, Sampling, Splits
from modelwright.data.batches import first_there, read
from modelwright.launch.environment import checked_port
from modelwright.models.starts.freezing import freeze
from modelwright.objectives import METRICS, Objective
from modelwright.objectives.function import FunctionObjective
from modelwright.parallel import PRECISIONS
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import recomputed
from modelwright.planning.search import check_share, check_workers
from modelwright.recipe import Recipe
from modelwright.recipe.build import build_model, filled_model
from modelwright.recipe.own import build_objective, updating_of
from modelwright.recipe.schema import Launch
from modelwright.recipe.weights import begun_model
from modelwright.training.prepared import begun
from modelwright.training.updating import shares

SAMPLES = 2
SMALL = 100_000_000  # Parameters; up to here a model that cannot run on the meta device is tried for real.


def check_launch(recipe: Recipe, cluster: Cluster) -> None:
    """Refuse wishes about workers that cannot come true on this machine.

    Raises:
        ModelwrightError: more workers than samples in a step, or than the machine bears; the port is taken.
    """
    if recipe.plan.workers != "auto":
        check_share(data_ranks(recipe.plan.sized(recipe.plan.workers)), recipe.batch)
        check_workers(recipe.plan.workers, cluster)
    check_sizes(recipe.launch, recipe.plan.workers)
    if recipe.launch.port is not None:
        try:
            checked_port(recipe.launch.port)
        except ModelwrightError as error:
            error.where = "launch.port"
            raise


def check_elastic(launch: Launch, workers: int | Literal["auto"]) -> None:
    """Refuse what would have no effect in a run that begins; one that was begun so goes on.

    Raises:
        ModelwrightError: naming the field.
    """
    if launch.min is None and launch.rejoin != Launch().rejoin:
        raise ModelwrightError(
            "'rejoin' is for a run that may shrink: it needs 'min' too",
            where="launch.rejoin",
            remedy="for example  launch: {min: 1, rejoin: 1m}",
        )
    if launch.max is not None and workers != "auto" and launch.max < workers:
        raise ModelwrightError(
            f"launch.max allows {launch.max} workers, but the plan has {workers}",
            where="launch.max",
            remedy=f"raise it to {workers} or more, or lower plan.workers",
        )


def check_techniques(recipe: Recipe, model: nn.Module, cluster: Cluster) -> None:
    """Refuse names that fit nothing in the model, and number formats that the machine lacks.

    Args:
        recipe: what is asked for.
        model: built from it, be it on the meta device; the recipe's frozen parameters are frozen in it.
        cluster: where it is to run.

    Raises:
        ModelwrightError: naming the field.
    """
    plan = recipe.plan
    if plan.precision != "auto":
        PRECISIONS.resolve(plan.precision)().check(torch.device(cluster.device))
    if plan.recompute != "auto":
        recomputed(model, plan.recompute)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for number, rule in enumerate(recipe.groups):
        matching(names, rule.names, f"groups[{number}].names")
    if recipe.updates:
        shares(model, {name: updating_of(recipe, settings) for name, settings in recipe.updates.items()})


def check_model(recipe: Recipe, data: Splits) -> nn.Module:
    """Build the model and try a forward, a loss and the metrics on two samples.

    Returns:
        The model, on the meta device where it can be built there.

    Raises:
        ModelwrightError: the model cannot be built, or fails on the data; no valid target at all; samples cannot be
            drawn as wished.
    """
    if len(data.train):  # or it is told that there are none
        cast(Sampling, recipe.sampling).order(data.train, batch=recipe.batch, seed=recipe.seed)
    objective = build_objective(recipe)
    check_targets(objective, data)
    config = filled_model(recipe, data.facts)
    metrics = recipe.evaluation.metrics or objective.metrics
    check_metrics(objective, metrics)
    try:
        with torch.device("meta"):
            model = build_model(config)
        _try(model, objective, data, metrics, torch.device("meta"))
    except Exception:
        # Some code cannot run without values: only a failure with real ones is the user's.
        with _placing("model"):
            model = build_model(config)
        if sum(parameter.numel() for parameter in model.parameters()) <= SMALL:
            _try(model, objective, data, metrics, torch.device("cpu"))
    _check_beginning(recipe, config, model)
    return model


def _check_beginning(recipe: Recipe, config: object, model: nn.Module) -> None:
    """Try how the weights begin, where that costs little; a large model finds out when its workers start."""
    asked = recipe.initial or recipe.start is not None or recipe.freeze
    if asked and sum(parameter.numel() for parameter in model.parameters()) <= SMALL:
        begun_model(recipe, config)


def check_metrics(objective: Objective, metrics: Sequence[str]) -> None:
    """Refuse metrics of outputs where there are none.

    Raises:
        ModelwrightError: the objective is a plain function, which hands over losses only.
    """
    if metrics and isinstance(objective, FunctionObjective) and not objective.metrics:
        raise ModelwrightError(
            "metrics read the model's outputs, and an objective that is a function hands over losses only",
            where="evaluation.metrics",
            remedy="leave the metrics out, or write an objective with counts, forward and loss",
        )


def check_targets(objective: Objective, data: Splits, samples: int = 256) -> None:
    """Refuse data whose first samples hold no valid target.

    Raises:
        ModelwrightError: the objective counts nothing in them.
    """
    batch = _first(data.train, samples, "training")
    with _placing("objective"):
        counts = objective.counts(batch)
    if not any(int(value) for value in counts.values()):
        count = min(samples, len(data.train))
        raise ModelwrightError(
            f"the first {count} training samples hold no valid target: there is nothing to learn from",
            where="data",
            remedy="targets of -100 are not counted; check how the targets are made",
        )


def _try(model: nn.Module, objective: Objective, data: Splits, metrics: Sequence[str], device: torch.device) -> None:
    objective = begun(objective, model)
    program = LocalProgram(model, objective, device=device)
    model.eval()
    with torch.no_grad():
        batch = _first(data.train, SAMPLES, "training", device)
        with _placing("model"):
            objective.loss(program.forward(batch), batch)
        if data.held_out is None:
            return
        batch = _first(data.held_out, SAMPLES, "held-out", device)
        outputs = program.forward(batch)
        with _placing("evaluation.metrics"):
            for name in metrics:
                METRICS.resolve(name)().update(outputs, batch)


def _first(dataset: Dataset, samples: int, kind: str, device: torch.device | None = None) -> dict[str, Tensor]:
    count = min(samples, len(dataset))
    if count == 0:
        raise ModelwrightError(f"the {kind} data is empty", where="data", remedy="give it at least one sample")
    with _placing("data"):
        batch = read(dataset, first_there(dataset, count))
        return {name: value.to(device or value.device) for name, value in batch.items()}


@contextmanager
def _placing(where: str) -> Iterator[None]:
    """Say where in the recipe, in errors that do not say where themselves."""
    try:
        yield
    except ModelwrightError as error:
        error.where = error.where or where
        raise
