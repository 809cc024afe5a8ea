"""A student made of some of the teacher's own layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.change import Change, KeepChildren


def shallower(teacher: nn.Module, keep: int | Sequence[int], *, layers: str | None = None) -> tuple[nn.Module, Change]:
    """A copy of the teacher with some of its layers only, and what makes it of the teacher.

    Source: Sanh et al. 2019, "DistilBERT" (arXiv:1910.01108), which takes every second layer.

    Args:
        teacher: any module whose layers are in a ``ModuleList`` or ``Sequential``, and go from one to the next with
            inputs of one shape.
        keep: places of the layers, ascending; or how many, which are then spread evenly from first to last.
        layers: name of the list; ``None``: the one with the most parameters in layers of one class.

    Raises:
        ModelwrightError: there is no such list, or it has fewer layers.
    """
    name = _repeated(teacher) if layers is None else layers
    held = dict(teacher.named_modules()).get(name)
    if not isinstance(held, (nn.ModuleList, nn.Sequential)):
        raise ModelwrightError(
            f"'{name}' is no list of layers", where="layers", remedy="name a ModuleList or Sequential of the model"
        )
    places = _spread(keep, len(held)) if isinstance(keep, int) else tuple(keep)
    change = Change(
        kind="shortened",
        edits=(KeepChildren(module=name, places=places),),
        facts={"layers": len(places), "of": len(held)},
    )
    with torch.no_grad():
        student = deepcopy(teacher)
    change.apply(student)
    return student, change


def _repeated(model: nn.Module) -> str:
    weights: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1:
            kinds: Counter[type[Any]] = Counter()
            for child in module:
                kinds[type(child)] += sum(parameter.numel() for parameter in child.parameters())
            if len(kinds) == 1:
                weights[name] = max(kinds.values())
    if not weights or not max(weights.values()):
        raise ModelwrightError(
            "the model has no list of layers of one class",
            where="layers",
            remedy="name the ModuleList or Sequential whose layers are to go",
        )
    return max(weights, key=weights.__getitem__)


def _spread(count: int, layers: int) -> tuple[int, ...]:
    if not 1 <= count <= layers:
        raise ModelwrightError(f"of {layers} layers {count} cannot be kept", where="keep")
    if count == 1:
        return (0,)
    return tuple(round(place * (layers - 1) / (count - 1)) for place in range(count))
