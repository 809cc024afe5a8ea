"""What a model is made of, as far as removing parts of it goes: classes, kinds, ties, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from modelwright.compression.structure.freezing import Ties, freeze_by_graph, tie_by_numbers
from modelwright.compression.structure.kinds import Kinds
from modelwright.compression.structure.solving import Numbers
from modelwright.compression.structure.units import Frozen, Place, UnitClass
from modelwright.compression.structure.watching import Watches
from modelwright.graph import Graph, Member, Tree, trace
from modelwright.graph.tracing import Forward


class Anatomy:
    """What one run of a model tells.

    Args:
        model: any module.
        example_inputs: for it.
        forward: of both, where the inputs are not simply its arguments.

    Attributes:
        graph: of its forward pass.
        attempt: which attempt at the trace succeeded.
        recorder: of that one.
        kinds: what its classes are.
        numbers: of its code.
        ties: what is frozen, and what must keep equally many.
        members: by class, where it lies in parameters and buffers.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, forward: Forward | None = None) -> None:
        watches = Watches()
        self.graph: Graph = trace(model, example_inputs, forward=forward, watch=watches)
        self.attempt = len(watches) - 1
        self.recorder = watches[-1].recorder
        self.kinds = Kinds(self.graph)
        self.numbers = Numbers(self.graph.dimensions, watches[-1].attributes, watches[-1].uses)
        self.members = _members(self.graph)
        self.ties = Ties()
        freeze_by_graph(self.graph, self.kinds, self.ties)
        self._freeze_unused()
        tie_by_numbers(self.numbers, self.ties)
        self.ties.settle()

    @property
    def free(self) -> list[int]:
        """The classes that may still lose entries."""
        return [leaf for leaf in self.members if leaf not in self.ties.frozen]

    @cached_property
    def sizes(self) -> dict[int, int]:
        """How many entries each class has."""
        found: dict[int, int] = {}
        for value in (*self.graph.parameters.values(), *self.graph.buffers.values()):
            for dim in range(len(value.shape)):
                _collect(self.graph.dimensions.tree(value.id, dim), found)
        return found

    def near(self, operator: int) -> set[int]:
        """The classes that the inputs and outputs of an operator have."""
        found = self.graph.operators[operator]
        leaves = self.kinds.leaves
        return {leaf for value in (*found.inputs, *found.outputs) for dim in leaves[value] for leaf in dim}

    def alike(self, leaf: int) -> list[int]:
        """Those classes that lie in the same places of tensors of the same shapes."""
        wanted = self._likeness(leaf)
        return [other for other in self.free if self._likeness(other) == wanted]

    def unit_class(self, leaf: int) -> UnitClass:
        """A class that may lose entries."""
        places = tuple(self._place(leaf, members) for members in _by_dim(self.members[leaf]))
        cost = sum(self._cost(each) for each in places if not each.buffer)
        kind, group = self.kinds.of(leaf), self.ties.group(leaf)
        return UnitClass(number=leaf, kind=kind, size=self.sizes[leaf], places=places, cost=cost, together=group)

    def frozen(self, leaf: int) -> Frozen:
        """A class that may not."""
        return Frozen(
            number=leaf,
            kind=self.kinds.of(leaf),
            size=self.sizes[leaf],
            tensors=tuple(dict.fromkeys(each.name for each in self.members[leaf])),
            reason=self.ties.frozen[leaf],
        )

    def _freeze_unused(self) -> None:
        for leaf, members in self.members.items():
            if not any(member.value in self.kinds.used for member in members):
                self.ties.freeze(leaf, "nothing reads it when the model runs on this example")

    def _likeness(self, leaf: int) -> tuple[object, ...]:
        values = self.graph.values
        return tuple((values[each.value].shape, each.dim, each.offset, each.stride) for each in self.members[leaf])

    def _place(self, leaf: int, members: list[Member]) -> Place:
        first, size = members[0], self.sizes[leaf]
        places = [sorted(place for each in members for place in each.places(entry)) for entry in range(size)]
        reads = (first.value, leaf) in self.kinds.reads
        return Place(
            tensor=first.name,
            dim=first.dim,
            places=np.asarray(places, dtype=np.int64),
            buffer=self.graph.values[first.value].kind == "buffer",
            makes=not reads or (first.value, leaf) in self.kinds.makes,
            reads=reads,
        )

    def _cost(self, place: Place) -> int:
        shape = self.graph.parameters[place.tensor].shape
        return math.prod(shape) // shape[place.dim] * int(place.places.shape[1])


def _members(graph: Graph) -> dict[int, list[Member]]:
    """By class of more than one entry that some parameter has, where it lies in parameters and buffers."""
    found: dict[int, list[Member]] = {}
    for value in graph.values:
        if value.kind in ("parameter", "buffer") and value.producer is None:
            for dim in range(len(value.shape)):
                for leaf, member in graph.dimensions.lies(value.id, dim):
                    found.setdefault(leaf, []).append(member)
    parameters = {each.id for each in graph.parameters.values()}
    owned = {leaf: members for leaf, members in found.items() if any(each.value in parameters for each in members)}
    return {leaf: members for leaf, members in owned.items() if _size(graph, leaf, members[0]) > 1}


def _size(graph: Graph, leaf: int, member: Member) -> int:
    sizes: dict[int, int] = {}
    _collect(graph.dimensions.tree(member.value, member.dim), sizes)
    return sizes[leaf]


def _by_dim(members: Iterable[Member]) -> Iterable[list[Member]]:
    found: dict[tuple[int, int], list[Member]] = {}
    for each in members:
        found.setdefault((each.value, each.dim), []).append(each)
    return found.values()


def _collect(tree: Tree, found: dict[int, int]) -> None:
    if tree.kind is None:
        found[tree.leaf] = tree.size
    for child in tree.children:
        _collect(child, found)
