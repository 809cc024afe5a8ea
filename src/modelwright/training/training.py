"""Training: what is to be trained, as objects; and how a plan turns it into a running program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.loader import Loader
from modelwright.data.order import Order
from modelwright.models.attention import set_attention
from modelwright.models.starts.freezing import frozen_norms
from modelwright.objectives import METRICS, Metric, Objective
from modelwright.objectives.held import held_parameters
from modelwright.optim import AverageTechnique, OptimizerTechnique, Schedule
from modelwright.optim.offload import Offloaded
from modelwright.optim.rules import GroupRule
from modelwright.optim.scaling import DynamicScale
from modelwright.optim.schedules.building import built, remembering
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.settings import check_schedules, note_bases
from modelwright.parallel import EXCHANGES
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.layouts.replicate import Replicate, ReplicatedProgram, batch_norms, equalise
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import set_recompute, tell_recompute
from modelwright.planning.search import check_share
from modelwright.training import checkpoints
from modelwright.training.due import SavingDue
from modelwright.training.evaluation import evaluate
from modelwright.training.fit import Record, fit
from modelwright.training.patience import Patience, check_monitor
from modelwright.training.reference import reference_of
from modelwright.training.settings import Budget, Evaluation, Saving
from modelwright.training.state import Numbers, State
from modelwright.training.steps import steps
from modelwright.training.update import Update
from modelwright.training.updating import Updating, joined, shares
from modelwright.training.watching import Watch
from modelwright.training.weights import Weights


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
        momentum_schedule, weight_decay_schedule: factors on those settings, or ``None``.
        groups: rules that change the optimizer's settings by name of parameter.
        updates: several updates by name, each with parameters of its own; empty for one of all parameters.
        averaging: of the weights, or ``None``; the averages are what is scored and kept.
        loss_scale: of precisions that need one.
        seed: of the data order and of dropout.
        evaluation: when and how to score held-out data.
        saving: when to write checkpoints.
        watch: looking into the run.
    """

    model: nn.Module
    data: Splits
    objective: Objective
    optimizer: OptimizerTechnique
    budget: Budget
    schedule: Schedule = field(default_factory=Cosine)
    batch: int = 32
    clip: float | None = 1.0
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None
    groups: tuple[GroupRule, ...] = ()
    updates: Mapping[str, Updating] = field(default_factory=dict)
    averaging: AverageTechnique | None = None
    loss_scale: DynamicScale = field(default_factory=DynamicScale)
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)
    watch: Watch = field(default_factory=Watch)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics to score: the recipe's, or the objective's own."""
        return self.evaluation.metrics or self.objective.metrics

    @property
    def updatings(self) -> dict[str, Updating]:
        """The updates by name; a single one has the empty name."""
        single = Updating(
            optimizer=self.optimizer,
            schedule=self.schedule,
            momentum_schedule=self.momentum_schedule,
            weight_decay_schedule=self.weight_decay_schedule,
            groups=self.groups,
            clip=self.clip,
        )
        return dict(self.updates) or {"": single}


class Prepared:
    """A training laid out on this rank by a plan: program, optimizer and state, ready to run."""

    def __init__(self, training: Training, plan: Plan, mesh: Mesh) -> None:
        check_fit(training, plan)
        self.training = training
        self.plan = plan
        self.group: Group = mesh.axis("replicate")
        self.program = _laid_out(training, plan, mesh)
        self.updates = _updates(training, plan, self.program)
        self.weights = Weights(training.averaging, self.program.model, [update.optimizer for update in self.updates])
        self.patience = _patience(training)
        self.state = State(
            model=self.program.model,
            optimizer=joined([update.optimizer for update in self.updates]),
            batch=training.batch,
            seed=training.seed,
            total=plan.steps,
            averages=self.weights.averages,
            numbers_of=self._numbers(),
            tensors_of={"best": self.weights.best} if self.patience is not None else {},
        )

    def _numbers(self) -> dict[str, Numbers]:
        parts: dict[str, Numbers] = {} if self.patience is None else {"patience": self.patience}
        if (reference := reference_of(self.training.objective, self.program.objective)) is not None:
            parts["reference"] = reference
        for update in self.updates:
            prefix = f"{update.name}." if update.name else ""
            if update.scale is not None:
                parts[f"{prefix}loss-scale"] = update.scale
            if (schedule := remembering(update.schedule)) is not None:
                parts[f"{prefix}schedule"] = schedule
        return parts

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
        training = steps(self.updates, self.loader(), self.state, self.group, lambda: stop() or self.ended)
        return fit(
            training,
            self.state,
            evaluate=self.evaluate if self.training.data.held_out is not None else None,
            evaluate_every=evaluation.every,
            save=(lambda: self._save(checkpoint_folder, before_save)) if checkpoint_folder is not None else None,
            save_due=SavingDue(saving, self.state, self.group),
            judge=self._judge,
            ended=lambda: self.ended,
            settle=self._settle,
        )

    def _settle(self) -> None:
        best = self.patience.best_step if self.patience is not None and self.weights.best.tensors else None
        self.weights.settle()
        if best is not None and best != self.state.step and not self.ended and self.group.rank == 0:
            emit(
                "best-restored",
                f"the budget is used up, and the weights of step {best} are restored: of those that were scored on the "
                "way they are the best; the last ones are in the newest checkpoint",
                step=self.state.step,
                best_step=best,
            )

    @property
    def ended(self) -> bool:
        """Whether the held-out score has stopped gaining."""
        return self.patience is not None and self.patience.exhausted

    @property
    def complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.ended or self.state.step >= self.state.total

    def _judge(self, scores: dict[str, float]) -> None:
        for update in self.updates:
            if (schedule := remembering(update.schedule)) is not None:
                monitor = monitor_of(self.training.updatings[update.name].schedule)
                schedule.observe(scores[monitor], better_of(monitor))
        if self.patience is None:
            return
        if self.patience.observe(scores[self.patience.monitor], self.state.step):
            with self.weights.shown():
                self.weights.best.keep(self.program.model)
        if self.ended and self.group.rank == 0:
            kept = f"the weights of step {self.patience.best_step} are restored"
            emit(
                "stopped-early",
                f"{self.patience.monitor} has not gained in {self.patience.without_gain} evaluations: training ends, "
                f"and {kept if self.weights.best.tensors else 'the last weights stay, as no score was finite'}",
                step=self.state.step,
                best=self.patience.best,
                best_step=self.patience.best_step,
            )

    def evaluate(self, whole: bool) -> dict[str, float]:
        """Score the held-out data, or the part of it that the recipe names; a collective."""
        held_out = self.training.data.held_out
        assert held_out is not None
        with self.weights.shown():
            return evaluate(
                self.program,
                held_out,
                self.training.metrics,
                self.group,
                micro_batch=self.plan.micro_batch,
                samples=None if whole else self.training.evaluation.samples,
            )

    def _save(self, folder: Path, before_save: Callable[[], None]) -> Path:
        for update in self.updates:
            update.settle(self.group)
        before_save()
        enter(Phase.SAVE)
        self.program.synchronise()
        return checkpoints.save(self.state, folder, self.group, self.training.saving.keep, self.weights)


def check_fit(training: Training, plan: Plan) -> None:
    """Find what cannot work before anything is spent.

    Raises:
        ModelwrightError: fewer samples in a step than workers, no training data, or an objective with parameters.
    """
    check_share(plan.workers, training.batch)
    if plan.offload != "none" and training.updates:
        raise ModelwrightError(
            "moments are offloaded for a single update only", where="plan.offload", remedy="leave it at none"
        )
    if len(training.data.train) == 0:
        raise ModelwrightError("the training data is empty", where="data")
    _check_objective(training)
    _check_monitors(training)


def _check_monitors(training: Training) -> None:
    schedules = [updating.schedule for updating in training.updatings.values()]
    for updating in training.updatings.values():
        for name in ("momentum_schedule", "weight_decay_schedule"):
            if remembering(_built(getattr(updating, name))) is not None:
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


def _laid_out(training: Training, plan: Plan, mesh: Mesh) -> ReplicatedProgram:
    """The order matters: what computes is settled before what is computed anew, and that before it is compiled."""
    device = torch.device(mesh.device)
    model = training.model.to(device)
    _put_to_train(model, mesh)
    if plan.attention is not None:
        set_attention(model, plan.attention)
    if hasattr(training.objective, "build"):  # what it takes from the weights is to be the same on every rank
        equalise(model, mesh.axis("replicate"))
    program = LocalProgram(model, begun(training.objective, model), device=device, precision=plan.precision)
    recomputed = set_recompute(model, plan.recompute)
    if mesh.rank == 0:
        tell_recompute(recomputed, plan.recompute)
    if plan.compile:
        compile_regions(model)
    _say_what_micro_batches_change(training, plan, mesh)
    return Replicate(exchange=EXCHANGES.resolve(plan.exchange)()).apply(program, mesh)


def begun(objective: Objective, model: nn.Module) -> Objective:
    """The objective, with what it takes from the weights that training starts from."""
    return objective.build(model) if hasattr(objective, "build") else objective


def _updates(training: Training, plan: Plan, program: ReplicatedProgram) -> list[Update]:
    updatings, scaled = training.updatings, program.precision.scaled
    trained = shares(program.model, updatings)
    updates = []
    for name, updating in updatings.items():
        part = program if not training.updates else program.part(trained[name], updating.terms)
        optimizer = updating.build(program.model, trained[name])
        check_schedules(
            optimizer,
            learning_rate=updating.schedule,
            momentum=updating.momentum_schedule,
            weight_decay=updating.weight_decay_schedule,
        )
        note_bases(optimizer)
        updates.append(
            Update(
                name=name,
                program=part,
                optimizer=Offloaded(optimizer) if plan.offload == "moments" else optimizer,
                schedule=built(updating.schedule),
                momentum_schedule=_built(updating.momentum_schedule),
                weight_decay_schedule=_built(updating.weight_decay_schedule),
                clip=updating.clip,
                every=updating.every,
                scale=training.loss_scale.build() if scaled else None,
            )
        )
    return updates


def _built(schedule: Schedule | None) -> Schedule | None:
    return None if schedule is None else built(schedule)


def monitor_of(schedule: Schedule) -> str:
    """The score that a schedule which looks at scores wants to be told."""
    return getattr(schedule, "metric", None) or "loss"


def _patience(training: Training) -> Patience | None:
    wished = training.evaluation
    if wished.patience is None:
        return None
    return Patience(
        monitor=wished.monitor,
        better=better_of(wished.monitor),
        patience=wished.patience,
        minimum_gain=wished.minimum_gain,
    )


def better_of(monitor: str) -> Literal["lower", "higher"]:
    """Which direction of a score is better."""
    return "lower" if monitor == "loss" else cast(Metric, METRICS.resolve(monitor)).better


def _put_to_train(model: nn.Module, mesh: Mesh) -> None:
    """Leave the modes to the user, who may have frozen some modules; but a model all in evaluation is a slip."""
    if model.training:
        return
    model.train()
    still = frozen_norms(model)
    for name in still:
        model.get_submodule(name).eval()
    if mesh.rank == 0:
        but = f", but for {len(still)} frozen batch norms" if still else ""
        emit(
            "model-put-to-train", f"the model was in evaluation mode; all of its modules are put to training mode{but}"
        )


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
