"""Which class was decided for, against which it was: the sums that F1, precision and recall are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.calling import logits_of
from modelwright.objectives.cross_entropy import check_targets
from modelwright.objectives.features import Features
from modelwright.objectives.fields import IGNORED, class_targets, field, same_shape
from modelwright.objectives.reading import likeliest


class Decisions:
    """For each class: how often it was decided for and right, decided for, and right; int64 ``[3, classes]``.

    Takes logits ``[batch, ..., classes]`` for numbers of classes ``[batch, ...]``; logits of a yes, ``[batch]`` or
    ``[batch, 1]``, for answers ``[batch]``, which makes two classes, no and yes; or logits ``[batch, labels]`` for
    answers ``[batch, labels]``, where each label is a class and decided by itself. Targets of -100 are not counted.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(3, 0, dtype=torch.int64)

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in one batch."""
        reader = f"metric {type(self).__name__}"
        if _is_answered(outputs, field(batch, "targets", reader)):
            self._add(_of_answers(logits_of(outputs), batch["targets"], reader))
        else:
            self._add(_of_classes(outputs, batch, reader))

    def merge(self, other: Self) -> None:
        """Take in what ``other`` saw."""
        self._add(other._counts)

    def state(self) -> dict[str, Tensor]:
        """The counts; without any class before anything is seen."""
        return {"counts": self._counts.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the counts."""
        self._counts = state["counts"].to(torch.int64, copy=True)

    def _seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hits, decisions and targets of each class, float64 on the CPU.

        Raises:
            ModelwrightError: nothing was counted.
        """
        counts = self._counts.cpu().double()
        if not counts.any():
            raise ModelwrightError(
                f"{type(self).__name__} has seen nothing to count",
                remedy="check that the data holds valid targets (-100 marks those to ignore)",
            )
        return counts[0], counts[1], counts[2]

    def _add(self, counts: Tensor) -> None:
        mine, missing = self._counts.to(counts.device, non_blocking=True), counts.shape[1] - self._counts.shape[1]
        self._counts = functional.pad(mine, (0, max(missing, 0))) + functional.pad(counts, (0, max(-missing, 0)))


def _is_answered(outputs: Any, targets: Tensor) -> bool:
    """Whether there is one logit for each target, a yes, and not one for each class."""
    return tuple(getattr(logits_like(outputs), "shape", ())) in (tuple(targets.shape), (*targets.shape, 1))


def logits_like(outputs: Any) -> Any:
    """Something with the shape of the logits, without making them."""
    return outputs if isinstance(outputs, Features) else logits_of(outputs)


def _of_classes(outputs: Any, batch: dict[str, Tensor], reader: str) -> Tensor:
    targets = class_targets(batch, "targets", reader)
    decided = likeliest(outputs, targets, reader)
    classes = logits_like(outputs).shape[-1]
    check_targets(targets, classes)
    counted = targets != IGNORED
    columns = (counted & (decided == targets), targets), (counted, decided), (counted, targets)
    return torch.stack([_histogram(which, labels, classes) for which, labels in columns])


def _of_answers(logits: Tensor, targets: Tensor, reader: str) -> Tensor:
    decided, wanted = same_shape(logits, targets, reader) > 0, targets >= 0.5
    counted = targets != IGNORED
    if targets.dim() == 1:  # two classes, the no being a class as well
        decided, wanted = torch.stack([~decided, decided], -1), torch.stack([~wanted, wanted], -1)
        counted = counted[:, None]
    return torch.stack([(counted & which).flatten(0, -2).sum(0) for which in (decided & wanted, decided, wanted)])


def _histogram(which: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often each label occurs where ``which``; in a fixed shape, so no waiting for the device."""
    places = labels.masked_fill(~which, classes).flatten()
    sums = torch.zeros(classes + 1, dtype=torch.int64, device=labels.device)
    return sums.scatter_add_(0, places, torch.ones_like(places))[:classes]
