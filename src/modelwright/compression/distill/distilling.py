"""The verb: a student is trained on what a teacher makes of the data, in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from modelwright.base.detect import detect
from modelwright.base.world import arranged, world
from modelwright.compression.distill.projecting import projected
from modelwright.data import Splits
from modelwright.data.batches import read
from modelwright.models.attention import attention_kernels
from modelwright.models.change import Change
from modelwright.objectives import Objective
from modelwright.objectives.distillation import Distance
from modelwright.objectives.distillation.distillation import Distillation
from modelwright.objectives.distillation.features import Features
from modelwright.objectives.distillation.logits import Logits
from modelwright.objectives.distillation.seeing import seeing
from modelwright.optim import OptimizerTechnique, Schedule
from modelwright.optim.adamw import AdamW
from modelwright.optim.schedules.cosine import Cosine
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import default_plan
from modelwright.training.budget import steps_of
from modelwright.training.fit import Evaluated
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """What a distillation gave.

    Attributes:
        model: the student, trained; the one that was given is as it was.
        change: says how; no edit, as only weights are other ones.
        before, after: scores on the held-out data, by the task; empty where nothing is held out.
        steps: that were trained.
    """

    model: nn.Module
    change: Change
    before: dict[str, float]
    after: dict[str, float]
    steps: int


def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Splits,
    *,
    task: Objective,
    budget: Budget,
    by: tuple[Distance, ...] = (Logits(),),
    task_weight: float = 1.0,
    optimizer: OptimizerTechnique | None = None,
    schedule: Schedule | None = None,
    batch: int = 32,
    clip: float | None = 1.0,
    precision: str = "fp32",
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Distilled:
    """Train a student by a task and by distances to a teacher; in every process of a torchrun script, or in this one.

    The student may be new, a pruned teacher, or :func:`~modelwright.compression.distill.student.shallower` of it. Where
    :class:`~modelwright.objectives.distillation.features.Features` are compared that differ in width, linear
    projections are learnt with it and left behind.

    Args:
        student: any module; a copy of it is trained.
        teacher: any module that computes the same outputs; a frozen copy of it teaches.
        data: training and held-out samples.
        task: the objective the student is for.
        budget: how long; not a time.
        by: the distances.
        task_weight: factor on the task's own loss; 0: targets do not count.
        optimizer, schedule: ``AdamW()`` and ``Cosine()`` where they are ``None``.
        batch: samples per step over all processes.
        clip: largest global gradient norm, or ``None``.
        precision: a name of ``modelwright.parallel.PRECISIONS``.
        seed: of the data order, dropout and projections.
        stop: ends it early, after a step.
        quiet: show nothing.

    Raises:
        ModelwrightError: models that cannot be compared, a mistake in the settings.
        RunFailed: the loss is no number any more.
    """
    trained = deepcopy(student).train()
    objective = Distillation(task=task, teacher=teacher, by=by, task_weight=task_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner, compared = projected(trained, teacher, by, _outputs(objective, trained, data))
    training = Training(
        model=learner,
        data=data,
        objective=replace(objective, by=compared),
        optimizer=optimizer or AdamW(),
        schedule=schedule or Cosine(),
        batch=batch,
        clip=clip,
        seed=seed,
        budget=budget,
    )
    before, after, steps = _trained(training, precision, stop, quiet)
    told: dict[str, Any] = {
        "steps": steps,
        "batch": batch,
        "task_weight": task_weight,
        "by": [repr(each) for each in by],
    }
    change = Change(kind="distilled", edits=(), facts=told)
    return Distilled(model=trained.train(student.training), change=change, before=before, after=after, steps=steps)


def _outputs(objective: Distillation, student: nn.Module, data: Splits) -> dict[str, tuple[Tensor, Tensor]]:
    """By module of the student, its output for one sample and that of the teacher's module it is compared with."""
    pairs = {a: b for each in objective.by if isinstance(each, Features) for a, b in each.pairs.items()}
    if not pairs or objective.teacher is None:
        return {}
    batch, training = read(data.train, [0]), student.training
    found = []
    for model, names in ((student.eval(), pairs), (objective.teacher, pairs.values())):
        with torch.no_grad(), seeing(model, tuple(names), attention=False) as seen:
            objective.task.forward(model, batch)
        found.append(seen.hidden)
    student.train(training)
    return {a: (found[0][a], found[1][b]) for a, b in pairs.items()}


def _trained(
    training: Training, precision: str, stop: Callable[[], bool], quiet: bool
) -> tuple[dict[str, float], dict[str, float], int]:
    with world() as mesh:
        request = PlanRequest(workers=mesh.size, threads=torch.get_num_threads(), precision=precision)  # type: ignore[arg-type]
        kernels = attention_kernels(training.model, mesh.device.type)
        plan = default_plan(request, detect(), batch=training.batch, kernels=kernels, launched=False)
        plan = replace(plan, steps=steps_of(training.budget, batch=training.batch, dataset=training.data.train))
        prepared = Prepared(training, plan, arranged(mesh, plan.layout))
        scored = training.data.held_out is not None
        before = (prepared.evaluate(True) or {}) if scored else {}
        after: dict[str, float] = {}
        with _progress(plan.steps, quiet or mesh.rank != 0) as progress, closing(prepared.run(None, stop)) as records:
            for record in records:
                if isinstance(record, Evaluated):
                    after = record.scores
                else:
                    progress.advance(progress.task_ids[0])
    return before, after, prepared.state.step


def _progress(steps: int, hidden: bool) -> Progress:
    columns = (TextColumn("distilling"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden)
    progress.add_task("", total=steps)
    return progress
