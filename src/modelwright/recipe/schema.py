"""The recipe: everything a user decides about a training run, typed and frozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count, Seconds
from modelwright.data import DATA, SAMPLING
from modelwright.models import INITIALS, MODELS
from modelwright.models.starts.start import Start
from modelwright.objectives import OBJECTIVES
from modelwright.optim import AVERAGES, OPTIMIZERS, SCHEDULES
from modelwright.optim.rules import GroupRule
from modelwright.optim.scaling import DynamicScale
from modelwright.planning.request import PlanRequest
from modelwright.training.settings import Budget, Evaluation, Saving
from modelwright.training.watching import Watch

_NAME = re.compile(r"\w[\w.-]*")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("names a folder: use letters, digits, '.', '_' and '-', a letter or digit first")
    return name


def _checked_batch(batch: int) -> int:
    if batch < 1:
        raise ValueError("must be at least 1 sample")
    return batch


def _told(field_name: str, check: Callable[[Any], object], value: object) -> None:
    """The same check for recipes made in Python, where no reader has run."""
    try:
        check(value)
    except ValueError as error:
        raise ModelwrightError(f"'{field_name}' is {value!r}, but it {error}", where=field_name) from None


Name = Annotated[str, AfterValidator(_checked_name)]


def _cosine() -> object:
    return SCHEDULES.resolve("cosine")()


def _global() -> object:
    return SAMPLING.resolve("global")()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How worker processes are started, and what follows where one dies.

    Attributes:
        port: TCP port where the workers meet; none means a free one.
        min: the fewest workers with which the run goes on where others die; none means that it ends.
        max: the most workers of a run that may shrink and grow; none means as many as planned.
        rejoin: time without a death after which a run that has shrunk takes workers in again.
    """

    port: int | None = None
    min: int | None = None
    max: int | None = None
    rejoin: Seconds = 30.0

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ModelwrightError(
                f"'port' must lie between 1 and 65535, not {self.port}",
                where="port",
                remedy="leave it out for a free one",
            )
        if self.min is not None and self.min < 1:
            raise ModelwrightError(f"'min' is at least 1 worker, not {self.min}", where="min")
        if self.max is not None and (self.min is None or self.max < self.min):
            needed = "is for a run that may shrink: it needs 'min' too" if self.min is None else "is below 'min'"
            raise ModelwrightError(
                f"'max' ({self.max}) {needed}",
                where="max",
                remedy="for example  launch: {min: 1, max: 4}; for a fixed number of workers, plan.workers=4",
            )
        if not self.rejoin >= 0:
            raise ModelwrightError(f"'rejoin' must not be negative, but is {self.rejoin:g}", where="rejoin")


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """One of several updates, each of which trains parameters of its own; a GAN has two.

    Attributes:
        parameters: patterns of the names of the parameters it trains.
        terms: of the objective that it minimises; empty for all.
        optimizer: null for the recipe's.
        schedule: null for the recipe's.
        clip: largest norm of the gradient of these parameters; null for no clipping.
        every: it acts in every so many steps, the first one among them.
    """

    parameters: tuple[str, ...]
    terms: tuple[str, ...] = ()
    optimizer: Annotated[object, OPTIMIZERS] | None = None
    schedule: Annotated[object, SCHEDULES] | None = None
    clip: PositiveFloat | None = 1.0
    every: Count = 1

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ModelwrightError(
                "an update names the parameters it trains", where="parameters", remedy="add patterns"
            )
        if self.every < 1:
            raise ModelwrightError(f"'every' is at least 1 step, not {self.every}", where="every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the user asks for.

    Attributes:
        name: the run's name; without one the run is named after the recipe and the time.
        seed: everything random follows from it.
        model: the model to train.
        initial: first values of parameters by patterns of their names, instead of the model's own.
        start: where the first weights come from, instead of from the seed.
        freeze: patterns of names of parameters that keep their values.
        data: what it learns from.
        objective: what is minimised.
        optimizer: how the parameters are updated.
        schedule: how the learning rate changes over the run.
        momentum_schedule: how the momentum changes; null for not at all.
        weight_decay_schedule: how the weight decay changes; null for not at all.
        groups: other settings of the optimizer by patterns of names; the first that fits counts.
        updates: several updates by name, each of parameters of its own; empty for one of all.
        averaging: an average of the weights, which is then what is scored and kept; null for none.
        loss_scale: of precision fp16.
        batch: samples of one step, over all workers together.
        sampling: which samples a step draws.
        clip: largest norm of the gradient; null for no clipping.
        budget: when training ends.
        evaluation: looking at the held-out data while training.
        saving: checkpoints.
        watch: looking into the run while it trains.
        plan: wishes about how the job runs; auto leaves them to the planner.
        launch: how worker processes are started.
    """

    name: Name | None = None
    seed: NonNegativeInt = 0
    model: Annotated[object, MODELS]
    initial: dict[str, Annotated[object, INITIALS]] = field(default_factory=dict)
    start: Start | None = None
    freeze: tuple[str, ...] = ()
    data: Annotated[object, DATA]
    objective: Annotated[object, OBJECTIVES]
    optimizer: Annotated[object, OPTIMIZERS]
    schedule: Annotated[object, SCHEDULES] = field(default_factory=_cosine)
    momentum_schedule: Annotated[object, SCHEDULES] | None = None
    weight_decay_schedule: Annotated[object, SCHEDULES] | None = None
    groups: tuple[GroupRule, ...] = ()
    updates: dict[str, UpdateSettings] = field(default_factory=dict)
    averaging: Annotated[object, AVERAGES] | None = None
    loss_scale: DynamicScale = field(default_factory=DynamicScale)
    batch: Annotated[Count, AfterValidator(_checked_batch)]
    sampling: Annotated[object, SAMPLING] = field(default_factory=_global)
    clip: PositiveFloat | None = 1.0
    budget: Budget
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)
    watch: Watch = field(default_factory=Watch)
    plan: PlanRequest = field(default_factory=PlanRequest)
    launch: Launch = field(default_factory=Launch)

    def __post_init__(self) -> None:
        if self.name is not None:
            _told("name", _checked_name, self.name)
        _told("batch", _checked_batch, self.batch)
        if self.seed < 0:
            raise ModelwrightError(f"'seed' must not be negative, but is {self.seed}", where="seed")
        if self.clip is not None and self.clip <= 0:
            raise ModelwrightError(f"'clip' must be more than zero, not {self.clip:g}", where="clip")
