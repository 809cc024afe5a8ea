"""Techniques of the user's own in the form that the other rooms expect: objective, optimizer, schedule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast, overload

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives import Objective
from modelwright.objectives.function import FunctionObjective
from modelwright.objectives.held import check_whole
from modelwright.optim import Optimizer, Schedule
from modelwright.optim.closure import check_closure_free
from modelwright.optim.groups import trainable
from modelwright.optim.seeing import Sees, sees_of
from modelwright.recipe.foreign import Foreign
from modelwright.recipe.schema import Recipe, UpdateSettings
from modelwright.training.updating import Updating


def build_objective(recipe: Recipe) -> Objective:
    """The objective; a function ``(model, batch, ...)`` of the user's own becomes one.

    Raises:
        ModelwrightError: the user's class raises, or is neither an objective nor a function of model and batch.
    """
    objective: Any = recipe.objective
    if not isinstance(objective, Foreign):
        return cast(Objective, objective)
    if objective.takes("batch"):
        return FunctionObjective(partial(objective.target(), **objective.arguments))
    found = objective.build()
    if all(hasattr(found, name) for name in ("counts", "forward", "loss")):
        check_whole(found, objective.where)
        return cast(Objective, found)
    if callable(found):
        return FunctionObjective(found)
    raise _unfit(objective, found, "a function (model, batch), or a class with counts, forward and loss")


def build_optimizer(technique: Any, model: nn.Module) -> Optimizer:
    """The optimizer of a model's trainable parameters; any class in the manner of ``torch.optim`` will do.

    Raises:
        ModelwrightError: the user's class raises, gives no optimizer, or one that calls the model itself.
    """
    if not isinstance(technique, Foreign):
        return cast(Optimizer, technique.build(model))
    if technique.takes("params") or technique.takes("parameters"):
        found = technique.build(list(trainable(model).values()))
    else:
        found = technique.build(model) if technique.takes("model") else technique.build().build(model)
    if not all(hasattr(found, name) for name in ("param_groups", "step", "zero_grad")):
        raise _unfit(technique, found, "an optimizer with param_groups, step() and zero_grad()")
    check_closure_free(found, technique.where)
    for group in found.param_groups:
        group.setdefault("base_lr", group["lr"])
    return cast(Optimizer, found)


@overload
def build_schedule(technique: None) -> None: ...


@overload
def build_schedule(technique: object) -> Schedule: ...


def build_schedule(technique: Any) -> Schedule | None:
    """The schedule of a configuration; a function ``(step, total, ...) -> factor`` of the user's own becomes one.

    Raises:
        ModelwrightError: the user's class raises, or has no ``factor(step, total)``.
    """
    if technique is None or not isinstance(technique, Foreign):
        return cast(Schedule | None, technique)
    if technique.takes("step") and technique.takes("total"):
        return _Function(technique)
    found = technique.build()
    if hasattr(found, "factor"):
        return cast(Schedule, found)
    raise _unfit(technique, found, "a function (step, total), or a class with factor(step, total)")


def updating_of(recipe: Recipe, settings: UpdateSettings) -> Updating:
    """One of several updates; what it leaves out is the recipe's."""
    return Updating(
        optimizer=OwnOptimizer(settings.optimizer or recipe.optimizer),
        schedule=build_schedule(settings.schedule or recipe.schedule),
        momentum_schedule=build_schedule(recipe.momentum_schedule),
        weight_decay_schedule=build_schedule(recipe.weight_decay_schedule),
        groups=recipe.groups,
        clip=settings.clip,
        parameters=settings.parameters,
        terms=settings.terms,
        every=settings.every,
    )


def optimizers_of(recipe: Recipe) -> list[OwnOptimizer]:
    """That of each update."""
    chosen = [settings.optimizer or recipe.optimizer for settings in recipe.updates.values()] or [recipe.optimizer]
    return [OwnOptimizer(technique) for technique in chosen]


@dataclass(frozen=True)
class OwnOptimizer:
    """An optimizer of a recipe as a technique, be it ours, the user's or torch's."""

    technique: Any

    @property
    def sees(self) -> Sees:
        """What the technique declares, or is known of torch's; another may go by all parameters together."""
        return sees_of(self.technique.target() if isinstance(self.technique, Foreign) else self.technique)

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters of ``model``."""
        return build_optimizer(self.technique, model)


@dataclass(frozen=True)
class _Function:
    function: Foreign

    def factor(self, step: int, total: int) -> float:
        return float(self.function.build(step=step, total=total))


def _unfit(technique: Foreign, found: object, wanted: str) -> ModelwrightError:
    return ModelwrightError(
        f"'{technique.use}' gave an object of type {type(found).__name__}, which does not fit here",
        where=technique.where,
        remedy=f"name {wanted}",
    )
