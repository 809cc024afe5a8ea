"""The layers that read units: what they read of each in data, and how their weights meet it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.events import emit
from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.structure import Place, UnitClass
from modelwright.models.modes import evaluating
from modelwright.reforms.matrices import columns_of, groups_of, is_convolution, is_linear, is_transposed_linear


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A linear layer or convolution that sums over the units of a class.

    Attributes:
        name: of the module.
        module: the layer.
        place: where in its weight the units are.
    """

    name: str
    module: Any
    place: Place

    def spread(self, by_column: Tensor) -> Tensor:
        """``[groups, columns]``, a number for each column of the layer's matrices, in the shape of its weight."""
        weight = self.module.weight
        if is_transposed_linear(self.module):
            return by_column[0, :, None].expand(weight.shape)
        groups = groups_of(self.module)
        rows = by_column[:, None].expand(groups, weight.shape[0] // groups, by_column.shape[1])
        return rows.reshape(weight.shape)

    def columns(self) -> Tensor:
        """``[size, count]``: which columns of the layer's matrices hold each unit."""
        places = torch.from_numpy(self.place.places)
        if not is_convolution(self.module):
            return places
        kernel: int = self.module.weight[0, 0].numel()
        windows = places[:, :, None] * kernel + torch.arange(kernel)
        return windows.flatten(1)


def readers(model: nn.Module, classes: Sequence[UnitClass]) -> dict[int, list[Reader]]:
    """By number of each class the layers that read it, as far as they are linear layers or convolutions.

    A class that none of these reads is told of: what a criterion says of it rests on its weights alone.
    """
    found = {each.number: list(_readers(model, each)) for each in classes}
    blind = [each.name for each in classes if not found[each.number]]
    if blind:
        emit(
            "pruning-unread",
            f"no linear layer or convolution reads {', '.join(blind)}: these are judged by their weights alone",
            level="warning",
        )
    return found


def _readers(model: nn.Module, found: UnitClass) -> Iterator[Reader]:
    for place in found.parameters:
        path, _, last = place.tensor.rpartition(".")
        module = model.get_submodule(path)
        if last == "weight" and place.reads and place.dim == _dim(module):
            yield Reader(name=path, module=module, place=place)


def _dim(module: nn.Module) -> int | None:
    """Which dim of the weight the layer sums over."""
    if is_transposed_linear(module):
        return 0
    return 1 if is_linear(module) or is_convolution(module) else None


def means(
    model: nn.Module, layers: Sequence[Reader], evidence: Evidence, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """By layer ``[groups, columns]``: the mean of ``of`` its columns over all positions; see ``columns_of``."""
    sums: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    def note(name: str, columns: Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros(())) + of(columns.detach().double()).sum(1).cpu()
        positions[name] = positions.get(name, 0) + columns.shape[1]

    with evaluating(model), _listening({each.name: each.module for each in layers}, note), torch.no_grad():
        for batch in evidence.data():
            evidence.run(model, batch)
    return {name: each / positions[name] for name, each in sums.items()}


@contextmanager
def _listening(layers: dict[str, nn.Module], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook_of(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs: note(name, columns_of(module, *args[:1], *kwargs.values()))

    handles = [each.register_forward_pre_hook(hook_of(name), with_kwargs=True) for name, each in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def summed(found: UnitClass, tensors: dict[str, Tensor], *, reading: bool = True) -> Tensor:
    """What tensors of the parameters' shapes hold of each unit, summed: ``[size]``, float64.

    Args:
        found: the class.
        tensors: by name of the parameter; missing ones count nothing.
        reading: of the parameters that read the units, where there are such; else of all.
    """
    places = [each for each in found.parameters if each.reads and reading] or list(found.parameters)
    total = torch.zeros(found.size, dtype=torch.float64)
    for place in places:
        if place.tensor in tensors:
            total += place.by_unit(tensors[place.tensor].detach()).double().sum(1).cpu()
    return total
