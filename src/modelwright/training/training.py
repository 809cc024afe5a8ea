"""Training: what is to be trained, as objects; and how a plan turns it into a running program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.loader import Loader
from modelwright.data.order import Order
from modelwright.models.attention import set_attention
from modelwright.objectives import Objective
from modelwright.objectives.held import held_parameters
from modelwright.optim import OptimizerTechnique, Schedule
from modelwright.optim.schedules.cosine import Cosine
from modelwright.parallel import EXCHANGES
from modelwright.parallel.layouts.replicate import Replicate, ReplicatedProgram, batch_norms
from modelwright.parallel.program import LocalProgram
from modelwright.planning.search import check_share
from modelwright.training import checkpoints
from modelwright.training.due import SavingDue
from modelwright.training.evaluation import evaluate
from modelwright.training.fit import Record, fit
from modelwright.training.settings import Budget, Evaluation, Saving
from modelwright.training.state import State
from modelwright.training.steps import steps
from modelwright.training.update import Update


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained.

    Attributes:
        model: the module, still on the CPU.
        data: training and held-out samples.
        objective: what is minimised.
        optimizer: its configuration.
        schedule: factor on the learning rate.
        batch: samples per step over all workers.
        budget: how long.
        clip: largest global gradient norm, or ``None``.
        seed: of the data order and of dropout.
        evaluation: when and how to score held-out data.
        saving: when to write checkpoints.
    """

    model: nn.Module
    data: Splits
    objective: Objective
    optimizer: OptimizerTechnique
    budget: Budget
    schedule: Schedule = field(default_factory=Cosine)
    batch: int = 32
    clip: float | None = 1.0
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics to score: the recipe's, or the objective's own."""
        return self.evaluation.metrics or self.objective.metrics


class Prepared:
    """A training laid out on this rank by a plan: program, optimizer and state, ready to run."""

    def __init__(self, training: Training, plan: Plan, mesh: Mesh) -> None:
        check_fit(training, plan)
        self.training = training
        self.plan = plan
        self.group: Group = mesh.axis("replicate")
        self.program = _laid_out(training, plan, mesh)
        optimizer = training.optimizer.build(self.program.model)
        self.update = Update(program=self.program, optimizer=optimizer, schedule=training.schedule, clip=training.clip)
        self.state = State(
            model=self.program.model,
            optimizer=optimizer,
            batch=training.batch,
            seed=training.seed,
            total=plan.steps,
        )

    def loader(self) -> Loader:
        """This rank's micro-batches, from the state's place in the data to its last step."""
        dataset, batch, group = self.training.data.train, self.training.batch, self.group
        return Loader(
            dataset,
            Order(len(dataset), seed=self.training.seed),
            batch=batch,
            part=(group.rank * batch // group.size, (group.rank + 1) * batch // group.size),
            micro_batch=self.plan.micro_batch,
            position=self.state.samples,
            steps=max(0, self.state.total - self.state.step),
            pin=self.program.device.type == "cuda",
        )

    def run(
        self, checkpoint_folder: Path | None, stop: Callable[[], bool], before_save: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """Train to the end of the budget, evaluating and saving on the way.

        ``before_save`` puts away what was yielded so far: a run that is killed goes on from a checkpoint, and what
        went before would be missing.
        """
        saving, evaluation = self.training.saving, self.training.evaluation
        training = steps(self.update, self.loader(), self.state, self.group, stop)
        return fit(
            training,
            self.state,
            evaluate=self.evaluate if self.training.data.held_out is not None else None,
            evaluate_every=evaluation.every,
            save=(lambda: self._save(checkpoint_folder, before_save)) if checkpoint_folder is not None else None,
            save_due=SavingDue(saving, self.state, self.group),
        )

    def evaluate(self, whole: bool) -> dict[str, float]:
        """Score the held-out data, or the part of it that the recipe names; a collective."""
        held_out = self.training.data.held_out
        assert held_out is not None
        return evaluate(
            self.program,
            held_out,
            self.training.metrics,
            self.group,
            micro_batch=self.plan.micro_batch,
            samples=None if whole else self.training.evaluation.samples,
        )

    def _save(self, folder: Path, before_save: Callable[[], None]) -> Path:
        before_save()
        self.program.synchronise()
        return checkpoints.save(self.state, folder, self.group, self.training.saving.keep)


def check_fit(training: Training, plan: Plan) -> None:
    """Find what cannot work before anything is spent.

    Raises:
        ModelwrightError: fewer samples in a step than workers, no training data, or an objective with parameters.
    """
    check_share(plan.workers, training.batch)
    if len(training.data.train) == 0:
        raise ModelwrightError("the training data is empty", where="data")
    _check_objective(training)


def _check_objective(training: Training) -> None:
    known = set(training.model.parameters())
    if any(parameter.requires_grad and parameter not in known for parameter in held_parameters(training.objective)):
        raise ModelwrightError(
            "objectives with parameters are not supported yet: these would never be trained",
            where="objective",
            remedy="put them into the model; or freeze them with requires_grad_(False), as for a teacher",
        )


def _laid_out(training: Training, plan: Plan, mesh: Mesh) -> ReplicatedProgram:
    _put_to_train(training.model, mesh)
    if plan.attention is not None:
        set_attention(training.model, plan.attention)
    program = LocalProgram(
        training.model, training.objective, device=torch.device(mesh.device), precision=plan.precision
    )
    _say_what_micro_batches_change(training, plan, mesh)
    return Replicate(exchange=EXCHANGES.resolve(plan.exchange)()).apply(program, mesh)


def _put_to_train(model: nn.Module, mesh: Mesh) -> None:
    """Leave the modes to the user, who may have frozen some modules; but a model all in evaluation is a slip."""
    if model.training:
        return
    model.train()
    if mesh.rank == 0:
        emit("model-put-to-train", "the model was in evaluation mode; all of its modules are put to training mode")


def _say_what_micro_batches_change(training: Training, plan: Plan, mesh: Mesh) -> None:
    share = math.ceil(training.batch / plan.workers)
    names = batch_norms(training.model)
    if names and plan.micro_batch < share and mesh.rank == 0:
        emit(
            "batch-norm-inexact",
            f"{len(names)} batch-norm modules compute their statistics per micro-batch of {plan.micro_batch} samples, "
            f"so they do not train exactly like in one batch of {share}; GroupNorm would",
            level="warning",
            modules=names,
        )
