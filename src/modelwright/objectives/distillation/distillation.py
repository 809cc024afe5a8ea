"""A task, learnt from a teacher too."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.distillation import Distance
from modelwright.objectives.distillation.logits import Logits
from modelwright.objectives.distillation.seeing import Seen, seeing
from modelwright.objectives.preference import frozen_copy

if TYPE_CHECKING:
    from modelwright.objectives import Objective


@dataclass(frozen=True, kw_only=True, eq=False)
class Distillation:
    """What ``task`` minimises, and distances to what a frozen teacher makes of the same samples.

    Each distance is a term of its own, ``teacher-1`` and so on, with its own count: accumulation and replicas give the
    gradient of the whole batch. Held-out data is scored by the task alone.

    Attributes:
        task: any objective.
        teacher: a module, of which a frozen copy is taken; ``None``: the model as training starts from it.
        by: the distances.
        task_weight: factor on the task's own coefficients; 0: the targets do not count.
    """

    task: Any
    teacher: nn.Module | None = None
    by: tuple[Distance, ...] = (Logits(),)
    task_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.by:
            raise ModelwrightError("a distillation needs a distance", where="objective.by", remedy="by=(Logits(),)")
        if self.teacher is not None and _may_change(self.teacher):
            object.__setattr__(self, "teacher", frozen_copy(self.teacher))

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The task's, times ``task_weight``, and the distances' weights."""
        own = {term: weight * self.task_weight for term, weight in self.task.coefficients.items()}
        return own | {term: distance.weight for term, distance in self._terms().items()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's."""
        return tuple(self.task.metrics)

    @property
    def scored(self) -> Objective:
        """What held-out data is scored by."""
        return self.task  # type: ignore[no-any-return]

    @property
    def reference(self) -> nn.Module | None:
        """The teacher: a run that goes on has to have the same."""
        return self.teacher

    def build(self, model: nn.Module) -> Distillation:
        """The objective with its teacher, a frozen copy of ``model`` where none was given."""
        task = self.task.build(model) if hasattr(self.task, "build") else self.task
        return replace(self, task=task, teacher=frozen_copy(model) if self.teacher is None else self.teacher)

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The task's, and those of the distances."""
        counts: dict[str, Tensor] = self.task.counts(batch)
        return counts | {term: each.count(batch) for term, each in self._terms().items()}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Any:
        """The task's outputs, with what the distances look at; the outputs alone where nothing is learnt."""
        if not torch.is_grad_enabled():
            return self.task.forward(model, batch)
        names = tuple(dict.fromkeys(name for each in self.by for name in each.student_modules))
        return self._seen(model, batch, names)

    def loss(self, outputs: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Totals of the task and of the distances."""
        if not isinstance(outputs, Seen):
            outputs = Seen(outputs)
        names = tuple(dict.fromkeys(name for each in self.by for name in each.teacher_modules))
        with torch.no_grad():
            taught = self._seen(self._teacher(batch), batch, names)
        totals: dict[str, Tensor] = self.task.loss(outputs.outputs, batch)
        return totals | {term: each.total(outputs, taught, batch) for term, each in self._terms().items()}

    def _seen(self, model: nn.Module, batch: dict[str, Tensor], names: tuple[str, ...]) -> Seen:
        with seeing(model, names, any(each.attention for each in self.by)) as seen:
            seen.outputs = self.task.forward(model, batch)
        return seen

    def _terms(self) -> dict[str, Distance]:
        return {f"teacher-{number}": distance for number, distance in enumerate(self.by, start=1)}

    def _teacher(self, batch: Mapping[str, Tensor]) -> nn.Module:
        if self.teacher is None:
            raise ModelwrightError(
                "the distillation has no teacher yet",
                where="objective.teacher",
                remedy="give one, or train with what objective.build(model) returns",
            )
        device = next(iter(batch.values())).device
        if device.type == "meta":  # where operations are only counted; it would take the weights away for good
            return deepcopy(self.teacher).to(device)
        return self.teacher.to(device)


def _may_change(model: nn.Module) -> bool:
    return model.training or any(parameter.requires_grad for parameter in model.parameters())
