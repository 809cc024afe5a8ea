"""A student whose outputs on the way are projected to the teacher's widths while it learns, and not after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.distillation import Distance
from modelwright.objectives.distillation.features import Features
from modelwright.objectives.distillation.seeing import seeing


class Projected(nn.Module):
    """Computes what the student does; beside that ``projections``, one for each of some modules of it.

    Args:
        student: stays as it is.
        widths: module of the student -> ``(its width, the teacher's)``, of the last dim or of channels.
        channels: modules whose outputs are images ``[batch, channels, height, width]``.
    """

    def __init__(self, student: nn.Module, widths: Mapping[str, tuple[int, int]], channels: frozenset[str]) -> None:
        super().__init__()
        self.student = student
        self._places = dict(zip(widths, map(str, range(len(widths))), strict=True))
        self.projections = nn.ModuleDict(
            {
                self._places[name]: nn.Conv2d(own, wished, 1) if name in channels else nn.Linear(own, wished)
                for name, (own, wished) in widths.items()
            }
        )

    def place(self, name: str) -> str:
        """Where what is compared in the place of a module of the student comes out."""
        return f"projections.{self._places[name]}" if name in self._places else f"student.{name}"

    def get_output_embeddings(self) -> nn.Module | None:
        """The student's head, where it ends in one."""
        head = getattr(self.student, "head", None)
        if head is None and callable(ask := getattr(self.student, "get_output_embeddings", None)):
            head = ask()
        return head if isinstance(head, nn.Module) else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The student's outputs."""
        if not torch.is_grad_enabled():
            return self.student(*args, **kwargs)
        with seeing(self.student, tuple(self._places), attention=False) as seen:
            outputs = self.student(*args, **kwargs)
        for name, place in self._places.items():
            self.projections[place](seen.hidden[name])
        return outputs


def projected(
    student: nn.Module, teacher: nn.Module, by: tuple[Distance, ...], shapes: Mapping[str, tuple[Tensor, Tensor]]
) -> tuple[nn.Module, tuple[Distance, ...]]:
    """The student with projections where its features have other widths than the teacher's, and distances to match.

    Args:
        student: is part of what is returned.
        teacher: for its device and type.
        by: the distances that were asked for.
        shapes: by module of the student, its output and that of the teacher's module it is compared with.

    Raises:
        ModelwrightError: outputs differ in more than their width.
    """
    unlike = {name: pair for name, pair in shapes.items() if pair[0].shape != pair[1].shape}
    if not unlike:
        return student, by
    images = frozenset(name for name, pair in unlike.items() if pair[0].dim() == 4)
    widths = {name: _widths(name, *pair, images=name in images) for name, pair in unlike.items()}
    made = Projected(student, widths, images).to(next(student.parameters()).device, next(student.parameters()).dtype)
    return made, tuple(_renamed(distance, made) for distance in by)


def _widths(name: str, own: Tensor, wished: Tensor, *, images: bool) -> tuple[int, int]:
    dim = 1 if images else -1
    if own.dim() != wished.dim() or _without(own, dim) != _without(wished, dim):
        raise ModelwrightError(
            f"'{name}' puts out {list(own.shape)}, the teacher's module {list(wished.shape)}: they differ in more than "
            "their width",
            where="by",
            remedy="compare modules that see the same positions",
        )
    return own.shape[dim], wished.shape[dim]


def _without(tensor: Tensor, dim: int) -> list[int]:
    sizes = list(tensor.shape)
    sizes.pop(dim)
    return sizes


def _renamed(distance: Distance, made: Projected) -> Distance:
    if not isinstance(distance, Features):
        return distance
    return Features(pairs={made.place(a): b for a, b in distance.pairs.items()}, weight=distance.weight)
