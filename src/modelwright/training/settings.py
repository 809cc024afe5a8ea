"""What a user decides about a training run: how long, how often to look, how often to save."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count, Seconds
from modelwright.objectives import METRICS

USUAL_INTERVAL = 600.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When training ends. Exactly one of the five is given.

    Attributes:
        steps: optimizer updates.
        samples: samples of all workers together.
        tokens: tokens of all workers together.
        epochs: passes over the training data; fractions count.
        time: time spent in training steps; it is turned into a number of steps once.
    """

    steps: Count | None = None
    samples: Count | None = None
    tokens: Count | None = None
    epochs: float | None = None
    time: Seconds | None = None

    exactly_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            found = f"this one has {' and '.join(given)}" if given else "this one is empty"
            raise ModelwrightError(
                f"a budget is exactly one of {', '.join(vars(self))}; {found}",
                remedy="keep one, for example  budget: {time: 90s}",
            )
        (name, value), *_ = given.items()
        if not (math.isfinite(value) and value > 0):
            raise ModelwrightError(
                f"a budget of {value:g} {name} trains nothing",
                where=name,
                remedy="give more than zero, for example  budget: {steps: 1000}  or  budget: {time: 90s}",
            )

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return next(name for name, value in vars(self).items() if value is not None)

    @property
    def amount(self) -> float:
        """The number that is given, in the unit of :attr:`kind`."""
        return float(vars(self)[self.kind])


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Looking at the held-out data while training.

    Attributes:
        every: steps between two evaluations; none means at the end only.
        samples: held-out samples looked at each time; none means all of them.
        metrics: names of the metrics, or import paths; empty means the objective's own.
        patience: evaluations without a gain after which training ends and the best weights are restored; none means
            that the budget alone ends it.
        minimum_gain: less than this, in the unit of the score, is no gain.
        monitor: the score that is watched: loss, or a metric.
    """

    every: int | None = None
    samples: Count | None = None
    metrics: tuple[Annotated[str, METRICS], ...] = ()
    patience: int | None = None
    minimum_gain: float = 0.0
    monitor: str = "loss"

    def __post_init__(self) -> None:
        _positive("patience", self.patience, "a number of evaluations, or null to train to the end of the budget")
        if self.patience is not None and self.every is None:
            raise ModelwrightError(
                "patience counts evaluations on the way, and there are none",
                where="every",
                remedy="add the steps between two evaluations, for example  evaluation: {every: 100, patience: 5}",
            )
        if not self.minimum_gain >= 0:
            raise ModelwrightError(
                f"'minimum_gain' is at least 0, not {self.minimum_gain:g}",
                where="minimum_gain",
                remedy="give 0 or more",
            )
        _positive("every", self.every, "a number of steps, or null for the end only")
        _positive("samples", self.samples, "a number of samples, or null for all of them")
        for name in {name for name in self.metrics if self.metrics.count(name) > 1}:
            raise ModelwrightError(f"the metric '{name}' is listed twice", where="metrics", remedy="keep one")


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Checkpoints.

    Attributes:
        every: steps between two checkpoints; none means by time.
        time: time between two checkpoints, turned into steps once; none means ten minutes, or by steps.
        keep: how many checkpoints are kept; older ones are removed.
        keep_best: how many of the best are kept beside them, by the held-out score ``evaluation.monitor`` on the way;
            none are told apart where nothing is scored on the way.
        to: address of a store that each checkpoint is copied to, such as ``s3://bucket/runs``, and from which a run of
            this name goes on where it has no checkpoint on the disk; none means the disk alone.
    """

    every: Count | None = None
    time: Seconds | None = None
    keep: int = 2
    keep_best: int = 1
    to: str | None = None

    def __post_init__(self) -> None:
        _positive("every", self.every, "a number of steps, or null")
        _positive("time", self.time, "a duration such as 10m, or null")
        if self.every is not None and self.time is not None:
            raise ModelwrightError(
                "checkpoints are made by steps or by time, not both", where="every", remedy="keep one"
            )
        _positive("keep", self.keep, "at least 1, so that there is one to resume from")
        if self.keep_best < 0:
            raise ModelwrightError(
                f"'keep_best' is at least 0, not {self.keep_best}", where="keep_best", remedy="give 0 or more"
            )
        if self.to is not None and not self.to.strip("/ "):
            raise ModelwrightError(
                "the store has no address", where="to", remedy="write for example  to: s3://bucket/runs"
            )

    @property
    def interval(self) -> float:
        """Seconds between two checkpoints, where ``every`` is none."""
        return USUAL_INTERVAL if self.time is None else self.time


def _positive(name: str, value: float | None, remedy: str) -> None:
    if value is not None and value <= 0:
        raise ModelwrightError(f"'{name}' must be more than zero, not {value:g}", where=name, remedy=remedy)
