"""Find what cannot be trained before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.base.written import chosen
from modelwright.data.batches import read, there
from modelwright.objectives import METRICS, Metric
from modelwright.objectives.held import held_parameters
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.packing import borders
from modelwright.optim import OptimizerTechnique, Schedule
from modelwright.optim.schedules.building import built, remembering
from modelwright.parallel import EXCHANGES
from modelwright.parallel.products import Product, check_product
from modelwright.planning.search import check_share
from modelwright.training.patience import check_monitor
from modelwright.training.training import Training

LOOKED_AT = 65_536
_SEEN = ("elements", "tensors", "model")


def check_fit(training: Training, plan: Plan) -> None:
    """Find what cannot work before anything is spent.

    Raises:
        ModelwrightError: fewer samples in a step than workers, no training data, or an objective with parameters, or
            documents to be kept apart by a model that cannot.
    """
    check_share(plan.shares, training.batch)
    check_layout(
        plan,
        batch=training.batch,
        optimizers=[updating.optimizer for updating in training.updatings.values()],
        holes=_has_holes(training),
    )
    if plan.offload != "none" and training.updates:
        raise ModelwrightError(
            "moments are offloaded for a single update only", where="plan.offload", remedy="leave it at none"
        )
    if len(training.data.train) == 0:
        raise ModelwrightError("the training data is empty", where="data")
    _check_objective(training)
    _check_monitors(training)
    if isinstance(training.objective, NextToken):  # a model that documents are to be kept apart for has to do so
        borders(training.model, read(training.data.train, [0]))


def check_layout(plan: Plan, *, batch: int, optimizers: Sequence[OptimizerTechnique], holes: bool = False) -> None:
    """Refuse a layout that makes no sense, by itself or with the rest of the plan.

    Args:
        plan: how the job would run.
        batch: samples of a step.
        optimizers: of each update.
        holes: whether steps may have fewer samples.

    Raises:
        ModelwrightError, Mistakes: what, why, and what to set instead.
    """
    exchange = chosen(plan.exchange, EXCHANGES)
    check_product(
        Product(
            sizes=plan.layout,
            settings=plan.layouts,
            batch=batch,
            micro_batch=plan.micro_batch,
            precision=plan.precision,
            compile=plan.compile,
            exact=getattr(getattr(exchange, "compression", None), "exact", True),
            sees=max((getattr(optimizer, "sees", "model") for optimizer in optimizers), key=_SEEN.index),
            updates=len(optimizers),
            offload=plan.offload,
            holes=holes,
        )
    )


def _has_holes(training: Training) -> bool:
    """Whether a step may have fewer samples than positions: by its sampling, or as a shard is left out.

    A shard that is left out is a run of samples: looking at some, evenly, is enough.
    """
    length = len(training.data.train)
    places = np.unique(np.linspace(0, length - 1, min(length, LOOKED_AT), dtype=np.int64))
    return training.positions != training.batch or not bool(there(training.data.train, places).all())


def _check_monitors(training: Training) -> None:
    schedules = [updating.schedule for updating in training.updatings.values()]
    for updating in training.updatings.values():
        for name in ("momentum_schedule", "weight_decay_schedule"):
            schedule = getattr(updating, name)
            if schedule is not None and remembering(built(schedule)) is not None:
                raise ModelwrightError(
                    "a schedule that looks at scores is of the learning rate: here it would never hear any",
                    where=name,
                    remedy="choose one that follows from the step, such as linear",
                )
    watched = [monitor_of(schedule) for schedule in schedules if remembering(built(schedule)) is not None]
    if training.evaluation.patience is not None:
        watched.append(training.evaluation.monitor)
    for monitor in watched:
        check_monitor(monitor, training.metrics)
    if watched and (training.data.held_out is None or training.evaluation.every is None):
        raise ModelwrightError(
            "held-out scores are to be watched, and there are none on the way",
            where="evaluation",
            remedy="hold out a part of the data, and set evaluation.every",
        )


def _check_objective(training: Training) -> None:
    known = set(training.model.parameters())
    if any(parameter.requires_grad and parameter not in known for parameter in held_parameters(training.objective)):
        raise ModelwrightError(
            "objectives with parameters are not supported yet: these would never be trained",
            where="objective",
            remedy="put them into the model; or freeze them with requires_grad_(False), as for a teacher",
        )


def monitor_of(schedule: Schedule) -> str:
    """The score that a schedule which looks at scores wants to be told."""
    return getattr(schedule, "metric", None) or "loss"


def better_of(monitor: str) -> Literal["lower", "higher"]:
    """Which direction of a score is better."""
    return "lower" if monitor == "loss" else cast(Metric, METRICS.resolve(monitor)).better
