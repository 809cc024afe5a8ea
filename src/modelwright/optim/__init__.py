"""Optimizers, learning-rate schedules, clipping, and optimizer state on disk."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

OPTIMIZERS = Family(
    "optimizer",
    {
        "sgd": "modelwright.optim.sgd:SGD",
        "adamw": "modelwright.optim.adamw:AdamW",
        "muon": "modelwright.optim.muon:Muon",
    },
)

SCHEDULES = Family(
    "schedule",
    {
        "constant": "modelwright.optim.schedules.constant:Constant",
        "cosine": "modelwright.optim.schedules.cosine:Cosine",
        "linear": "modelwright.optim.schedules.linear:Linear",
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

    ``sees`` tells a layout what it may split: ``elements`` updates each number on its own, ``tensors`` needs
    whole tensors.
    """

    sees: ClassVar[Literal["elements", "tensors"]]

    def build(self, model: nn.Module) -> Optimizer:
        """An optimizer of the trainable parameters of ``model``; an error where there are none."""
        ...


class Schedule(Protocol):
    """The learning rate over a run, as a factor of its base."""

    def factor(self, step: int, total: int) -> float:
        """The factor, in [0, 1], of the update number ``step`` (from 0) of ``total``; pure."""
        ...
