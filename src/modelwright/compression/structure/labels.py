"""Numbers that a layer holds about its own weights and never reads, such as ``in_features`` or ``out_channels``.

Nothing goes wrong in the layer where they are stale, but whoever looks at it - other techniques, exporters, people -
reads them. Which dim such a number is about is seen from its value, and where that fits several dims, from a layer of
the same kind that is made with twice the number.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from modelwright.compression.structure.numbers import Attribute
from modelwright.compression.structure.trees import Sizes, size_of
from modelwright.graph import Graph, Tree


class Labels:
    """The numbers of a model's layers that its code does not read.

    Args:
        model: the original.
        graph: of it.
        read: the numbers that the code reads.
    """

    def __init__(self, model: nn.Module, graph: Graph, read: Collection[Attribute]) -> None:
        self._graph = graph
        self._values: dict[str, set[int]] = defaultdict(set)
        for operator in graph.operators:
            self._values[operator.module].update((*operator.inputs, *operator.outputs))
        self._found = {
            Attribute(name, label): trees
            for name, module in model.named_modules()
            if module._parameters
            for label, value in vars(module).items()
            if type(value) is int and value > 1 and Attribute(name, label) not in read
            if (trees := self._trees(name, module, label, value))
        }

    def values(self, sizes: Sizes) -> dict[Attribute, int]:
        """What they become; those that stay the same, or that fit several dims, are missing."""
        found = {each: {size_of(tree, sizes) for tree in trees} for each, trees in self._found.items()}
        return {
            each: next(iter(new)) for each, new in found.items() if len(new) == 1 and new != {self._found[each][0].size}
        }

    def _trees(self, name: str, module: nn.Module, label: str, value: int) -> list[Tree]:
        """Dims of the layer's own weights, or of what it reads and writes, that are so long."""
        trees = [tree for each in sorted(self._values[name]) for tree in self._dims(each) if tree.size == value]
        if len(set(trees)) < 2 or (place := _about(module, label)) is None:
            return trees
        parameter, dim = place
        value_of = self._graph.parameters.get(f"{name}.{parameter}" if name else parameter)
        own = None if value_of is None else self._graph.dimensions.tree(value_of.id, dim)
        return trees if own is None or own.size != value else [own]

    def _dims(self, value: int) -> Iterator[Tree]:
        for dim in range(len(self._graph.values[value].shape)):
            yield self._graph.dimensions.tree(value, dim)


def _about(module: nn.Module, label: str) -> tuple[str, int] | None:
    """The one dim of a weight that is longer in a layer made with a larger number, or that of the first weight."""
    first, second = _shapes(module, {}), _shapes(module, {label: 2 * getattr(module, label)})
    if first is None or second is None or first.keys() != second.keys():
        return None
    for name, shape in first.items():
        differing = [dim for dim, (a, b) in enumerate(zip(shape, second[name], strict=True)) if a != b]
        if differing:
            return (name, differing[0]) if len(differing) == 1 else None
    return None


def _shapes(module: nn.Module, others: Mapping[str, int]) -> dict[str, torch.Size] | None:
    """The shapes of the weights of a new layer of the same kind."""
    wanted = inspect.signature(type(module).__init__).parameters
    arguments: dict[str, Any] = {name: value for name, value in vars(module).items() if name in wanted}
    try:
        with torch.device("meta"):
            made = type(module)(**{**arguments, **others})
    except Exception:  # Whatever a constructor raises: nothing is learnt from it.
        return None
    return {name: each.shape for name, each in made.named_parameters(recurse=False)}
