"""A training laid out by a plan: program, optimizers and state, ready to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelwright.base.axes import AXES, DATA_AXES
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.base.written import chosen
from modelwright.data.batches import read, there
from modelwright.data.loader import Loader
from modelwright.models.attention import set_attention
from modelwright.models.starts.freezing import frozen_norms
from modelwright.objectives import Objective
from modelwright.optim import Schedule
from modelwright.optim.offload import Offloaded
from modelwright.optim.schedules.building import built, remembering
from modelwright.optim.settings import check_schedules, note_bases
from modelwright.parallel import EXCHANGES
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.laying import lay_out, layouts_of
from modelwright.parallel.layouts.replicate import batch_norms, equalise
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import set_recompute, tell_recompute
from modelwright.training import checkpoints
from modelwright.training.checking import better_of, check_fit, monitor_of
from modelwright.training.due import SavingDue
from modelwright.training.evaluation import evaluate_unless
from modelwright.training.exchanging import Exchanged
from modelwright.training.fit import Record, fit
from modelwright.training.gathering import gather_model
from modelwright.training.patience import Patience, check_monitor
from modelwright.training.reference import reference_of
from modelwright.training.state import Numbers, State, Tensors
from modelwright.training.steps import Step, steps
from modelwright.training.training import Training
from modelwright.training.update import Update
from modelwright.training.updating import joined, laid_out, shares
from modelwright.training.weights import Weights

Note = Callable[[int, NDArray[np.int64]], None]


class Prepared:
    """A training laid out on this rank by a plan: program, optimizer and state, ready to run.

    Attributes:
        group: all ranks.
        data: those with other samples.
        note: told, before each step is computed, its number and the samples that this rank has of it.
    """

    def __init__(self, training: Training, plan: Plan, mesh: Mesh) -> None:
        check_fit(training, plan)
        self.training = training
        self.plan = plan
        self.note: Note | None = None
        self._stop = _never
        self.group: Group = mesh.world
        self.data: Group = mesh.data
        self._notes = all(mesh.axis(axis).rank == 0 for axis in AXES if axis not in DATA_AXES)
        self.program = _laid_out(training, plan, mesh)
        self.program.in_step = self.program.in_step or self.divided
        self.updates = _updates(training, plan, self.program)
        self.weights = Weights(training.averaging, self.program.held, [update.optimizer for update in self.updates])
        self.patience = _patience(training)
        exchanges = {update.name: update.program.exchange for update in self.updates}
        self.exchanged = Exchanged(exchanges, self.data, self.program.held.names())
        self.state = State(
            held=self.program.held,
            optimizer=joined([update.optimizer for update in self.updates]),
            batch=training.positions,
            seed=training.seed,
            total=plan.steps,
            averages=self.weights.averages,
            owning=[update.owning for update in self.updates if update.owning is not None],
            numbers_of=self._numbers(),
            tensors_of=self._tensors(),
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

    def _tensors(self) -> dict[str, Tensors]:
        best: dict[str, Tensors] = {"best": self.weights.best} if self.patience is not None else {}
        return {"exchange": self.exchanged, **best}

    @property
    def divided(self) -> bool:
        """Whether several ranks compute the same samples together, or hold the model together."""
        return self.program.held.divided or self.data.size < self.group.size

    def loader(self) -> Loader:
        """This rank's micro-batches, from the state's place in the data to its last step."""
        training, batch, group = self.training, self.state.batch, self.data
        # A branch with another batch has taken more steps, or fewer, than its place in the data says.
        note, ahead = self.note if self._notes else None, self.state.step - self.state.samples // batch
        return Loader(
            training.data.train,
            training.order,
            batch=batch,
            part=(group.rank * batch // group.size, (group.rank + 1) * batch // group.size),
            micro_batch=self.plan.micro_batch,
            position=self.state.samples,
            steps=max(0, self.state.total - self.state.step),
            pin=self.program.device.type == "cuda",
            note=None if note is None else lambda number, indices: note(number + ahead, indices),
        )

    def steps(self, stop: Callable[[], bool]) -> Generator[Step, None, None]:
        """The rest of the training's steps, unless ``stop`` says so on any rank."""
        return steps(self.updates, self.loader(), self.state, self.group, stop, place=self.data.rank)

    def whole_weights(self) -> dict[str, Tensor]:
        """The model's tensors by name, on rank 0, as they are; a collective."""
        return gather_model(self.program.held, self.group)

    def run(
        self,
        checkpoint_folder: Path | None,
        stop: Callable[[], bool],
        before_save: Callable[[], None] = lambda: None,
        permit: Callable[[], None] = lambda: None,
    ) -> Generator[Record, None, None]:
        """Train to the end of the budget, evaluating and saving on the way.

        ``before_save`` puts away what was yielded so far: a run that is killed goes on from a checkpoint, and what
        went before would be missing. ``permit`` is asked where a checkpoint is about to be published.
        """
        saving, evaluation = self.training.saving, self.training.evaluation
        self._stop = stop
        training = self.steps(lambda: stop() or self.ended)
        return fit(
            training,
            self.state,
            evaluate=self.evaluate if self.training.data.held_out is not None else None,
            evaluate_every=evaluation.every,
            saver=self._saver(checkpoint_folder, before_save, permit) if checkpoint_folder is not None else None,
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
                self.weights.best.keep(self.program.held)
        if self.ended and self.group.rank == 0:
            kept = f"the weights of step {self.patience.best_step} are restored"
            emit(
                "stopped-early",
                f"{self.patience.monitor} has not gained in {self.patience.without_gain} evaluations: training ends, "
                f"and {kept if self.weights.best.tensors else 'the last weights stay, as no score was finite'}",
                level="warning",
                step=self.state.step,
                best=self.patience.best,
                best_step=self.patience.best_step,
            )

    def evaluate(self, whole: bool) -> dict[str, float] | None:
        """Score the held-out data, or the part of it that the recipe names; a collective.

        On the way a wish to stop ends it, with ``None``. At the end of a run everything is saved, and nobody waits.
        """
        held_out = self.training.data.held_out
        assert held_out is not None
        with self.weights.shown():
            return evaluate_unless(
                _never if whole else self._stop,
                self.program,
                held_out,
                self.training.metrics,
                self.group,
                share=self.data,
                micro_batch=self.plan.micro_batch,
                samples=None if whole else self.training.evaluation.samples,
            )

    def _saver(self, folder: Path, before_save: Callable[[], None], permit: Callable[[], None]) -> checkpoints.Saver:
        training, monitor = self.training, self.training.evaluation.monitor
        if training.saving.keep_best and training.evaluation.every and training.data.held_out is not None:
            check_monitor(monitor, training.metrics)
        return checkpoints.Saver(
            self.state,
            folder,
            self.group,
            training.saving,
            weights=self.weights,
            monitor=(monitor, better_of(monitor)),
            before=lambda: self._before_save(before_save),
            permit=permit,
        )

    def _before_save(self, before_save: Callable[[], None]) -> None:
        for update in self.updates:
            update.settle(self.group)
        before_save()
        self.program.synchronise()
        self.exchanged.collect()


def _never() -> bool:
    return False


def _laid_out(training: Training, plan: Plan, mesh: Mesh) -> LocalProgram:
    """The order matters: what computes is settled before what is computed anew, and that before it is compiled."""
    device = torch.device(mesh.device)
    model = training.model.to(device)
    _put_to_train(model, mesh)
    if plan.attention is not None:
        set_attention(model, plan.attention)
    if hasattr(training.objective, "build"):  # what it takes from the weights is to be the same on every rank
        equalise(model, mesh.world)
    program = LocalProgram(model, begun(training.objective, model), device=device, precision=plan.precision)
    _say_what_micro_batches_change(training, plan, mesh)

    def example() -> dict[str, Tensor]:
        return program.place(read(training.data.train, _first_samples(training, plan)))

    return lay_out(
        program,
        mesh,
        layouts_of(plan),
        exchange=chosen(plan.exchange, EXCHANGES),
        example=example,
        settle=lambda: _settled(program, plan, mesh, example),
    )


def _settled(program: LocalProgram, plan: Plan, mesh: Mesh, example: Callable[[], dict[str, Tensor]]) -> None:
    model, probe = program.model, None if "pipeline" in mesh.axes else lambda: program.tried(example())
    recomputed = set_recompute(model, plan.recompute, probe, mesh.world)
    if mesh.rank == 0:
        tell_recompute(recomputed, plan.recompute)
    if plan.compile:
        compile_regions(model)


def _first_samples(training: Training, plan: Plan) -> NDArray[np.int64]:
    """Of the order; its shapes are those of all."""
    drawn = np.asarray(training.order(np.arange(training.positions)))
    present = drawn[there(training.data.train, drawn)]
    return present[: plan.micro_batch]


def begun(objective: Objective, model: nn.Module) -> Objective:
    """The objective, with what it takes from the weights that training starts from."""
    return objective.build(model) if hasattr(objective, "build") else objective


def _updates(training: Training, plan: Plan, program: LocalProgram) -> list[Update]:
    updatings, scaled = training.updatings, program.precision.scaled
    with program.held.local():
        trained = shares(program.model, updatings)
        elsewhere = program.held.absent
        optimizers = {name: laid_out(each, program, trained[name], elsewhere) for name, each in updatings.items()}
    updates = []
    for name, updating in updatings.items():
        part = program if not training.updates else program.part(trained[name], updating.terms)
        optimizer, owning = optimizers[name]
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
                owning=owning,
            )
        )
    return updates


def _built(schedule: Schedule | None) -> Schedule | None:
    return None if schedule is None else built(schedule)


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
    share = math.ceil(training.batch / plan.shares)
    names = batch_norms(training.model)
    if names and plan.micro_batch < share and mesh.rank == 0:
        emit(
            "batch-norm-inexact",
            f"{len(names)} batch-norm modules compute their statistics per micro-batch of {plan.micro_batch} samples, "
            f"so they do not train exactly like in one batch of {share}; GroupNorm would",
            level="warning",
            modules=names,
        )
