"""The recipe: everything a user decides about a training run, typed and frozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count
from modelwright.data import DATA
from modelwright.models import MODELS
from modelwright.objectives import OBJECTIVES
from modelwright.optim import OPTIMIZERS, SCHEDULES
from modelwright.planning.request import PlanRequest
from modelwright.training.settings import Budget, Evaluation, Saving

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


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How worker processes are started.

    Attributes:
        port: TCP port where the workers meet; none means a free one.
    """

    port: int | None = None

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ModelwrightError(
                f"'port' must lie between 1 and 65535, not {self.port}",
                where="port",
                remedy="leave it out for a free one",
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the user asks for.

    Attributes:
        name: the run's name; without one the run is named after the recipe and the time.
        seed: everything random follows from it.
        model: the model to train.
        data: what it learns from.
        objective: what is minimised.
        optimizer: how the parameters are updated.
        schedule: how the learning rate changes over the run.
        batch: samples of one step, over all workers together.
        clip: largest norm of the gradient; null for no clipping.
        budget: when training ends.
        evaluation: looking at the held-out data while training.
        saving: checkpoints.
        plan: wishes about how the job runs; auto leaves them to the planner.
        launch: how worker processes are started.
    """

    name: Name | None = None
    seed: NonNegativeInt = 0
    model: Annotated[object, MODELS]
    data: Annotated[object, DATA]
    objective: Annotated[object, OBJECTIVES]
    optimizer: Annotated[object, OPTIMIZERS]
    schedule: Annotated[object, SCHEDULES] = field(default_factory=_cosine)
    batch: Annotated[Count, AfterValidator(_checked_batch)]
    clip: PositiveFloat | None = 1.0
    budget: Budget
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)
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
