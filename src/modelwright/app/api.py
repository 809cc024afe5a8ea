"""Training from plain Python: any module, any data set, any callable, in the world this process is in."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from modelwright.app.check import check_targets
from modelwright.app.display import TrainingScreen, speaker
from modelwright.app.reporting import report_or_say
from modelwright.app.session import logged, run_training
from modelwright.app.stopping import stop_requested
from modelwright.app.worker import planned
from modelwright.base.axes import fitted, resized
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError, Stopped
from modelwright.base.events import emit, listening
from modelwright.base.plan import Plan
from modelwright.base.units import parse_count, parse_seconds
from modelwright.base.world import Mesh, arranged, world
from modelwright.data import Dataset, Sampling, Splits
from modelwright.data.memory import splits_of
from modelwright.data.sampling.global_sampling import Global
from modelwright.models.attention import attention_kernels
from modelwright.objectives import Objective
from modelwright.objectives.function import FunctionObjective
from modelwright.objectives.held import check_whole
from modelwright.optim import AverageTechnique, OptimizerTechnique, Schedule
from modelwright.optim.adamw import AdamW
from modelwright.optim.rules import GroupRule
from modelwright.optim.schedules.cosine import Cosine
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import default_plan, measured
from modelwright.runs import Run, locked, remove
from modelwright.runs.process import elastic_job, is_alive, of_this_job
from modelwright.training.budget import steps_of
from modelwright.training.measure import measure
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget, Evaluation, Saving
from modelwright.training.training import Training
from modelwright.training.updating import Updating
from modelwright.training.watching import Watch

_BUDGETS = "write for example '500 steps', '20k samples', '5M tokens', '3 epochs' or '90s'"
_OBJECTIVES = (
    "an objective is a callable (model, batch) -> losses [batch], or one of modelwright.objectives; write for example "
    'lambda model, batch: cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")'
)
_OPTIMIZERS = "pass one of modelwright.optim, for example modelwright.optim.adamw.AdamW(lr=1e-3)"
_SCHEDULES = (
    "pass one of modelwright.optim.schedules, for example modelwright.optim.schedules.cosine.Cosine(warmup=0.05)"
)

_JUST_NOW = timedelta(minutes=10)
_LEASE_SECONDS = 100.0  # A lock of a machine that is gone stands on a file server until its lease ends (NFS: 90 s).

Samples = Dataset | Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]
LossFunction = Callable[[nn.Module, dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Result:
    """What a training gave.

    Attributes:
        model: the trained module (the one that was passed in); where a layout divides it, as this rank has it.
        run: its record on disk.
        scores: loss and metrics on the held-out data; empty where nothing was held out.
        summary: steps, samples, seconds, final training loss, ``status``.
    """

    model: nn.Module
    run: Run
    scores: dict[str, float]
    summary: dict[str, Any]


def train(
    model: nn.Module,
    data: Splits | Samples,
    *,
    objective: Objective | LossFunction,
    budget: Budget | str,
    held_out: Samples | None = None,
    optimizer: OptimizerTechnique | None = None,
    schedule: Schedule | None = None,
    batch: int = 32,
    sampling: Sampling | None = None,
    clip: float | None = 1.0,
    seed: int = 0,
    precision: str | None = None,
    groups: Sequence[GroupRule] = (),
    updates: Mapping[str, Updating] | None = None,
    averaging: AverageTechnique | None = None,
    evaluation: Evaluation | None = None,
    saving: Saving | None = None,
    watch: Watch | None = None,
    plan: PlanRequest | None = None,
    run: str | Path | None = None,
    quiet: bool = False,
) -> Result:
    """Train a module in this process, or in every process of the torchrun script this is called from.

    Args:
        model: any module; trained in place.
        data: a map-style data set whose samples are dicts, ``(inputs, targets)`` pairs or tensors; tensors
            ``(inputs, targets)``; or the :class:`~modelwright.data.Splits` that a data technique opens.
        objective: an objective, or a callable ``(model, batch) -> losses [batch]``.
        budget: such as ``Budget(steps=500)``, or text: ``"500 steps"``, ``"3 epochs"``, ``"5M tokens"``, ``"90s"``.
        held_out: what to evaluate on, where ``data`` is a data set.
        optimizer: ``AdamW()`` where it is ``None``.
        schedule: ``Cosine()`` where it is ``None``.
        batch: samples per step, over all processes.
        sampling: which samples a step draws; ``Global()`` where it is ``None``.
        clip: largest global gradient norm, or ``None``.
        seed: of the data order and of dropout.
        precision: a name of ``modelwright.parallel.PRECISIONS``, such as ``bf16``; that of ``plan``, or ``fp32``, where
            it is ``None``.
        groups: rules that change the optimizer's settings by name of parameter.
        updates: several updates by name, each with its own parameters, optimizer and schedule, instead of
            ``optimizer``, ``schedule``, ``groups`` and ``clip``.
        averaging: an average of the weights, which is then what is scored and kept.
        evaluation, saving: when to score held-out data, when to write checkpoints.
        watch: looking into the run while it trains.
        plan: further wishes, such as ``recompute``, ``compile``, ``micro_batch``; nothing is measured here, so ``auto``
            takes the usual value.
        run: name of the run, below ``runs/``, or a path; a fresh name where it is ``None``. A run that was
            stopped, interrupted or failed goes on where it stood, in as many processes as there are now. On a folder
            that several machines share, torch's elastic agents can make the world smaller and larger: docs/elastic.md.
        quiet: show nothing.

    Raises:
        ModelwrightError: a mistake, found before training starts.
        RunFailed: training diverged; or another world has taken the run up.
        Stopped: below an elastic agent, where another process was asked to stop: all is saved, and this process is to
            end, so that the agents form the next world.
    """
    _check_technique("optimizer", optimizer, "build", _OPTIMIZERS)
    _check_technique("schedule", schedule, "factor", _SCHEDULES)
    if updates and (optimizer is not None or schedule is not None or groups):
        raise ModelwrightError(
            "several updates bring their own optimizers, schedules and groups, so these would not be used",
            where="updates",
            remedy="give each modelwright.training.updating.Updating its own, and leave out those of train()",
        )
    training = Training(
        model=model,
        data=splits_of(data, held_out),
        objective=_objective(objective),
        optimizer=optimizer or AdamW(),
        schedule=schedule or Cosine(),
        batch=_batch(batch),
        sampling=sampling or Global(),
        budget=_budget(budget),
        clip=clip,
        seed=seed,
        groups=tuple(groups),
        updates=dict(updates or {}),
        averaging=averaging,
        evaluation=evaluation or Evaluation(),
        saving=saving or Saving(),
        watch=watch or Watch(),
    )
    request = _request(plan or PlanRequest(), precision)
    check_targets(training.objective, training.data)
    with world() as mesh:
        console = Console(stderr=True, quiet=quiet or mesh.rank != 0)
        with listening(speaker(console)), _recorded(run, mesh) as record:
            with _removed_unless_begun(record, mesh), logged(record) if mesh.rank == 0 else nullcontext():
                laid = _plan(training, record, mesh, request)
                prepared = Prepared(training, laid, arranged(mesh, laid.layout))
            with stop_requested() as stop, TrainingScreen(console, total=prepared.plan.steps) as screen:
                summary = run_training(prepared, record, stop=stop, show=screen.show)
            if mesh.rank == 0:
                report_or_say(record, console)
    if summary["status"] == "stopped" and stop.signal is None and elastic_job() is not None:
        raise _left(record, summary)
    return Result(model, record, summary.get("held_out", {}), summary)


def parse_budget(text: str) -> Budget:
    """``"500 steps"``, ``"3 epochs"``, ``"5M tokens"``, ``"20k samples"``, ``"90s"`` -> a budget.

    Raises:
        ModelwrightError: the text is none of these.
    """
    amount, _, kind = text.strip().partition(" ")
    kind = kind.strip().removesuffix("s")
    try:
        if kind in ("step", "sample", "token"):
            return Budget(**{f"{kind}s": parse_count(amount)})
        return Budget(epochs=float(amount)) if kind == "epoch" else Budget(time=parse_seconds(text))
    except (ModelwrightError, ValueError) as error:
        reason = f": {error.what}" if isinstance(error, ModelwrightError) else ""
        raise ModelwrightError(f"'{text}' is not a budget{reason}", where="budget", remedy=_BUDGETS) from error


def _budget(budget: Budget | str) -> Budget:
    if not isinstance(budget, (Budget, str)):
        raise ModelwrightError(f"a budget is text or a Budget, not {budget!r}", where="budget", remedy=_BUDGETS)
    return parse_budget(budget) if isinstance(budget, str) else budget


def _batch(batch: int) -> int:
    if not isinstance(batch, Integral) or batch < 1:
        raise ModelwrightError(
            f"batch is the number of samples per step, at least 1, not {batch!r}",
            where="batch",
            remedy="write for example batch=32",
        )
    return batch


def _check_technique(name: str, technique: object, method: str, remedy: str) -> None:
    if technique is not None and (isinstance(technique, type) or not hasattr(technique, method)):
        raise ModelwrightError(f"{_shown(technique)} is no configured {name}", where=name, remedy=remedy)


def _shown(value: object) -> str:
    """What was passed, in a few words: a class or function by its name, anything else by its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    article = "the class " if isinstance(value, type) else "" if named is value else "an instance of "
    return f"{article}{named.__module__}.{named.__qualname__}"


def _objective(objective: Objective | LossFunction) -> Objective:
    # The losses of torch.nn and torch.nn.functional are callable too, but with (outputs, targets).
    from_torch = str(getattr(objective, "__module__", "")).startswith("torch.nn.")
    if isinstance(objective, type) or not (hasattr(objective, "counts") or (callable(objective) and not from_torch)):
        raise ModelwrightError(f"{_shown(objective)} is no objective", where="objective", remedy=_OBJECTIVES)
    if not hasattr(objective, "counts"):
        return FunctionObjective(objective)
    check_whole(objective)
    return cast(Objective, objective)


@contextmanager
def _recorded(run: str | Path | None, mesh: Mesh) -> Iterator[Run]:
    """The run's directory; rank 0 makes or reopens it and holds its lock, the others hear where it is."""
    if mesh.rank != 0:
        yield Run(Path(mesh.world.gather("")[0]))
        return
    with _claimed(run) as record:
        mesh.world.gather(str(record.path.absolute()))
        yield record


def _left(run: Run, summary: dict[str, Any]) -> Stopped:
    """Were this process to end in order, its agent would take the job for done."""
    return Stopped(
        f"another process was asked to stop, so all did after step {summary['steps']}; everything is saved",
        signal=signal.SIGTERM,
        where=str(run.path),
        remedy="nothing: the elastic agents form the next world, which goes on",
    )


@contextmanager
def _claimed(run: str | Path | None) -> Iterator[Run]:
    path = Path(run) if run is not None else None
    folder = path.parent if path is not None and path.parent != Path() else Path("runs")
    name = path.name if path is not None else None
    resumable = name is not None and (folder / name / "run.json").exists()
    record = Run(folder / str(name)) if resumable else Run.create(folder, name, "train")
    with locked(record.path, patience=_LEASE_SECONDS if elastic_job() is not None else 0.0):
        if resumable and not _free(record):
            Run.create(folder, name, "train")  # refuses: the name is taken
        yield record


def _free(run: Run) -> bool:
    """Whether the run may be taken up.

    One of this elastic job may, also where its process on another machine cannot be seen: the agents ended that world
    before they formed this one, and a straggler is kept out by the fence. So may a finished one, whose last world was
    told to make room for a newcomer: it has no step left to do, and is scored once more.
    """
    process = run.record.process
    ours = of_this_job(process)
    if run.alive():
        return ours and is_alive(process) is None
    if run.status() != "finished":
        return True
    ours = ours and _lately(run)
    if ours:
        emit("finished-already", f"the run '{run.name}' is finished: it is only scored again", level="warning")
    return ours


def _lately(run: Run) -> bool:
    """Whether the run has ended just now: a job may go by the same name again some other day."""
    ended = run.record.ended
    return ended is not None and datetime.now(UTC) - datetime.fromisoformat(ended) < _JUST_NOW


@contextmanager
def _removed_unless_begun(run: Run, mesh: Mesh) -> Iterator[None]:
    """A mistake found before the first step leaves no empty run behind."""
    try:
        yield
    except BaseException:
        if mesh.rank == 0 and run.status() == "created":
            remove(run, force=True)
        raise


def _request(plan: PlanRequest, precision: str | None) -> PlanRequest:
    if precision is None:
        return plan if plan.precision != "auto" else replace(plan, precision="fp32")
    if plan.precision not in ("auto", precision):
        raise ModelwrightError(
            f"precision is {precision}, and that of the plan is {plan.precision}",
            where="precision",
            remedy="give one of them",
        )
    return replace(plan, precision=precision)  # type: ignore[arg-type]


def _check_same_precision(plan: Plan, precision: str) -> None:
    if precision not in ("auto", plan.precision):
        raise ModelwrightError(
            f"the run that is to go on was planned for precision {plan.precision}, not {precision}",
            where="precision",
            remedy=f"give precision='{plan.precision}', or another name for the run",
        )


def _tell_kept(plan: Plan, wished: PlanRequest, workers: int) -> None:
    """A run goes on by its own plan; wishes that it does not fulfil are not dropped without a word."""
    asked = {name: getattr(wished, name) for name in ("micro_batch", "attention", "recompute", "compile", "offload")}
    usual = vars(PlanRequest()) | {"exchange": PlanRequest().planned_exchange}
    asked["exchange"] = wished.planned_exchange
    kept = {name: value for name, value in asked.items() if value not in (usual[name], getattr(plan, name))}
    if wished.layout and (wished.sized(workers), wished.settings) != (plan.layout, plan.layouts):
        kept["layout"] = wished.layout
    if kept:
        told = ", ".join(f"{name} {getattr(plan, name)} (not {value})" for name, value in kept.items())
        emit("plan-kept", f"the run goes on by the plan it was begun with: {told}", level="warning", wished=kept)


def _in_this_world(plan: Plan, training: Training, mesh: Mesh) -> Plan:
    """The plan for as many workers as there are now; where it was another number it is revised."""
    if plan.workers == mesh.size:
        return plan
    layout = resized(plan.layout, mesh.size)
    told = f"the run goes on in {mesh.size} processes; before there were {plan.workers}"
    if mesh.rank == 0:
        emit("replanned", told, level="warning", workers=mesh.size)
    return replace(
        plan,
        workers=mesh.size,
        layout=layout,
        micro_batch=fitted(plan.micro_batch, layout, training.batch),
        prediction=None,
        reasons={"workers": told},
    )


def _same_budget(plan: Plan, training: Training) -> Plan:
    """The plan of a run that goes on; its number of steps is settled, and schedules depend on it."""
    if training.budget.time is None:
        steps = steps_of(training.budget, batch=training.batch, dataset=training.data.train)
        if steps != plan.steps:
            raise ModelwrightError(
                f"the run that is to go on was planned for {plan.steps} steps, and this budget makes {steps}",
                where="budget",
                remedy="give the budget it was begun with, or another name for the run",
            )
    return plan


def _plan(training: Training, run: Run, mesh: Mesh, wished: PlanRequest) -> Plan:
    """The run's own plan where it is resumed; else the usual values, with a budget of time measured."""
    # Gathered, so that no rank takes the plan that rank 0 is about to write for an earlier one.
    if mesh.world.gather(run.plan() is not None)[0]:
        plan = planned(run)
        _check_same_precision(plan, wished.precision)
        if mesh.rank == 0:
            _tell_kept(plan, wished, mesh.size)
        plan = _in_this_world(_same_budget(plan, training), training, mesh)
        return run.write_plan(plan) if mesh.rank == 0 else plan
    request = replace(wished, workers=mesh.world.size, threads=torch.get_num_threads())
    kernels = attention_kernels(training.model, mesh.device.type)
    plan = default_plan(request, detect(), batch=training.batch, kernels=kernels, launched=False)
    seconds = None
    if training.budget.time is not None:
        trial = replace(training, model=copy.deepcopy(training.model))
        plan = measured(plan, measure(Prepared(trial, plan, arranged(mesh, plan.layout))), training.batch)
        seconds = plan.prediction.step_seconds if plan.prediction else None
    steps = steps_of(training.budget, batch=training.batch, dataset=training.data.train, step_seconds=seconds)
    plan = replace(plan, steps=steps)
    return run.write_plan(plan) if mesh.rank == 0 else plan
