"""Optimizers, schedules, averages of weights, clipping, loss scaling, and optimizer state on disk."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

OPTIMIZERS = Family(
    "optimizer",
    {
        "sgd": "modelwright.optim.sgd:SGD",
        "adam": "modelwright.optim.adam:Adam",
        "adamw": "modelwright.optim.adamw:AdamW",
        "adafactor": "modelwright.optim.adafactor:Adafactor",
        "lion": "modelwright.optim.lion:Lion",
        "muon": "modelwright.optim.muon:Muon",
        "schedule-free": "modelwright.optim.schedule_free:ScheduleFree",
    },
)

SCHEDULES = Family(
    "schedule",
    {
        "constant": "modelwright.optim.schedules.constant:Constant",
        "cosine": "modelwright.optim.schedules.cosine:Cosine",
        "linear": "modelwright.optim.schedules.linear:Linear",
        "polynomial": "modelwright.optim.schedules.polynomial:Polynomial",
        "exponential": "modelwright.optim.schedules.exponential:Exponential",
        "step": "modelwright.optim.schedules.step:StepDecay",
        "wsd": "modelwright.optim.schedules.wsd:WarmupStableDecay",
        "inverse-square-root": "modelwright.optim.schedules.inverse_square_root:InverseSquareRoot",
        "plateau": "modelwright.optim.schedules.plateau:Plateau",
    },
)

AVERAGES = Family(
    "average",
    {
        "ema": "modelwright.optim.averages.ema:Ema",
        "mean": "modelwright.optim.averages.mean:Mean",
    },
)


class Optimizer(Protocol):
    """What :meth:`OptimizerTechnique.build` returns; every ``torch.optim.Optimizer`` is one.

    Each group of ``param_groups`` holds ``base_lr``; the loop sets ``lr`` to ``base_lr * factor``.
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their settings; changing a value in place takes effect."""
        ...

    @property
    def state(self) -> MutableMapping[Tensor, Any]:
        """State by parameter."""
        ...

    def step(self) -> Any:
        """Update the parameters that have a gradient."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        ...


class OptimizerTechnique(Protocol):
    """The configuration of an optimizer.

    What it builds may offer ``evaluating()``, a context manager that puts the weights to be scored into the
    parameters and takes those that are trained back; :func:`modelwright.optim.evaluating.evaluating` enters it.
    ``sees`` tells a layout what it may split: ``elements`` updates each number on its own, ``tensors`` needs
    whole tensors, ``model`` numbers of all of them together.
    """

    @property
    def sees(self) -> Literal["elements", "tensors", "model"]:
        """What its step has to see of a parameter."""
        ...

    def build(self, model: nn.Module) -> Optimizer:
        """An optimizer of the trainable parameters of ``model``; an error where there are none."""
        ...


class Schedule(Protocol):
    """A setting over a run, such as the learning rate, as a factor of its base."""

    def factor(self, step: int, total: int) -> float:
        """The factor, in [0, 1], of the update number ``step`` (from 0) of ``total``; pure, but for the stateful."""
        ...


class StatefulSchedule(Schedule, Protocol):
    """A schedule that follows the held-out scores; the ``build()`` of its configuration returns it.

    ``modelwright.optim.schedules.building.built`` gives the schedule of any configuration.
    """

    def observe(self, score: float, better: Literal["lower", "higher"]) -> None:
        """Take note of a held-out score; the loop calls it after each evaluation."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers, JSON-ready."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        ...


class Average(Protocol):
    """An average of the weights that are trained."""

    number: int

    def update(self, step: int, total: int) -> None:
        """Take in the weights after the update number ``step`` (from 0) of ``total``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, in float32 or wider; what is not averaged, such as buffers, as it is."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it remembers, as tensors for a file."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` returned."""
        ...

    def swapped(self) -> AbstractContextManager[None]:
        """Put the averages into the live tensors, and afterwards the very bits back that were there."""
        ...


class AverageTechnique(Protocol):
    """The configuration of an average."""

    def build(self, tensors: Mapping[str, Tensor]) -> Average:
        """The average of one run over the live tensors: parameters as ``nn.Parameter``, and buffers, by name."""
        ...
