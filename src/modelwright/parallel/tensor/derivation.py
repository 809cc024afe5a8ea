"""Derive how a model is divided over the ranks of an axis: from what it computes, never from what things are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from itertools import combinations, product

from modelwright.base.errors import ModelwrightError
from modelwright.graph import Graph, Tree, Value
from modelwright.parallel.divided.division import Division, axes_of, local_length, whole_dim
from modelwright.parallel.tensor.choosing import choose
from modelwright.parallel.tensor.costs import Cost, Costs
from modelwright.parallel.tensor.decision import Decision, Row, folded, local_bytes
from modelwright.parallel.tensor.pins import Pinned, Pins, read_pins
from modelwright.parallel.tensor.roles import Roles, roles
from modelwright.parallel.tensor.trees import division_of, rivals

AXIS = "tensor"

# Whoever asks for this axis wants the model divided; what is weighed is only whether a class is worth its traffic.
_FLOPS_FOR_A_BYTE = 4
_TENSORS_FOR_A_PARAMETER = 4  # itself, its gradient, and two moments


def derive(graph: Graph, size: int, *, pins: Pins | None = None, axis: str = AXIS) -> Decision:
    """Choose the dims of parameters that are divided over the ranks of an axis.

    A class of dims (see :mod:`modelwright.graph`) can be divided where products with weights make it and others sum
    over it - heads, units of a feed-forward, channels - and where its entries are rows of a table that the batch names,
    or results. Where two classes cannot both be divided, because a weight has both, those are chosen that save most for
    the bytes which travel. Each rank then holds the same share of every member of a class.

    The pattern that this finds in a transformer is that of Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053).

    Args:
        graph: of the model, with its loss, so that the backward pass counts.
        size: how many ranks there are along the axis.
        pins: by a pattern of parameters' names (``blocks.*.up.weight``) the dim to divide, or ``None`` to stay whole.
        axis: of the mesh.

    Raises:
        ModelwrightError: a pin fits no parameter, or asks for what cannot be.
    """
    return _Derivation(graph, size, axis).decide(pins or {})


class _Derivation:
    def __init__(self, graph: Graph, size: int, axis: str) -> None:
        self.graph, self.size, self.axis = graph, size, axis
        dimensions = graph.dimensions
        self.leaves = {value.id: dimensions.leaves(value.id) for value in graph.values}
        self.parameters = list({value.id: value for value in graph.parameters.values()}.values())
        self.trees = {
            value.id: [dimensions.tree(value.id, dim) for dim in range(len(value.shape))] for value in self.parameters
        }
        self.sizes = _sizes(tree for trees in self.trees.values() for tree in trees)
        self.roles: Roles = roles(graph, self.leaves)
        self.costs: dict[int, Cost] = {}

    def decide(self, pins: Pins) -> Decision:
        pinned = read_pins(pins, self.graph, self._cannot)
        chosen = self._chosen(pinned)
        divisions = {
            value.id: self._division(value, chosen)
            for value in self.parameters
            if value.id not in pinned.whole and not chosen.isdisjoint(self._all(value))
        }
        rows = [self._row(value, divisions.get(value.id), chosen, pinned) for value in self.parameters]
        named = {name: divisions[value.id] for name, value in self.graph.parameters.items() if value.id in divisions}
        sent = sum(self._cost(leaf).sent for leaf in chosen) * 2 * (self.size - 1) // self.size
        return Decision(axis=self.axis, size=self.size, divisions=named, rows=folded(rows), sent=sent)

    def _chosen(self, pinned: Pinned) -> frozenset[int]:
        if any(self.rivals[leaf] & pinned.divided for leaf in pinned.divided):
            raise ModelwrightError(
                "two of the pinned dims cannot both be divided: some tensor has both",
                where="tensor.pins",
                remedy="leave one of the pins away",
            )
        beside = set[int]().union(*(self.rivals[leaf] for leaf in pinned.divided)) | pinned.divided
        free = {leaf: self._benefit(leaf) for leaf in self.candidates if leaf not in beside}
        return frozenset(choose(free, self.rivals, self._likeness)) | pinned.divided

    @cached_property
    def candidates(self) -> list[int]:
        """Classes that may be divided, in the order of the parameters."""
        return [leaf for leaf in self.sizes if not self.roles.obstacle(leaf) and not self._cannot(leaf)]

    @cached_property
    def rivals(self) -> dict[int, set[int]]:
        """Of each class those that some tensor has beside it, so that both cannot be divided over one axis."""
        found: dict[int, set[int]] = defaultdict(set)
        for value in self.graph.values:
            if value.kind != "gradient":
                for one, other in self._rivals_in(value):
                    found[one].add(other)
                    found[other].add(one)
        return found

    def _rivals_in(self, value: Value) -> list[tuple[int, int]]:
        dims = [[leaf for leaf in dict.fromkeys(dim) if leaf in self.sizes] for dim in self.leaves[value.id]]
        found = [pair for one, other in combinations(dims, 2) for pair in product(one, other) if pair[0] != pair[1]]
        for place, dim in enumerate(dims):
            if len(dim) > 1:
                tree = self.graph.dimensions.tree(value.id, place)
                found += [pair for pair in rivals(tree) if pair[0] in self.sizes and pair[1] in self.sizes]
        return found

    def _cannot(self, leaf: int) -> str:
        size, noun = self.sizes.get(leaf, 1), self.roles.nouns.get(leaf, "units")
        if leaf in self.roles.mixed | self.roles.twice:
            return self.roles.obstacle(leaf)
        if size % self.size:
            return f"{size} {noun if size != 1 else noun.removesuffix('s')} do not divide over {self.size}"
        return ""

    def _uneven(self, leaf: int) -> bool:
        """Whether the ranks could not have as many entries each, which is all that hinders."""
        return not self.roles.obstacle(leaf) and self.sizes.get(leaf, 1) % self.size > 0

    def _cost(self, leaf: int) -> Cost:
        if leaf not in self.costs:
            self.costs[leaf] = self._counting.of(leaf)
        return self.costs[leaf]

    @cached_property
    def _counting(self) -> Costs:
        return Costs(self.graph, self.leaves)

    def _benefit(self, leaf: int) -> float:
        cost, gone = self._cost(leaf), 1 - 1 / self.size
        return gone * (cost.flops / _FLOPS_FOR_A_BYTE + _TENSORS_FOR_A_PARAMETER * cost.stored - 2 * cost.sent)

    def _likeness(self, leaf: int) -> tuple[object, ...]:
        """What classes of alike blocks have in common: where they lie in parameters of which shapes."""
        places = [
            (value.shape, place, self.graph.dimensions.describe(value.id, place), dim.index(leaf))
            for value in self.parameters
            for place, dim in enumerate(self.leaves[value.id])
            if leaf in dim
        ]
        return self.sizes[leaf], tuple(sorted(places))

    def _all(self, value: Value) -> list[int]:
        return [leaf for dim in self.leaves[value.id] for leaf in dim]

    def _division(self, value: Value, chosen: frozenset[int]) -> Division:
        return Division(tuple(division_of(tree, chosen, self.axis) for tree in self.trees[value.id]))

    def _row(self, value: Value, division: Division | None, chosen: frozenset[int], pinned: Pinned) -> Row:
        lies = division or Division(tuple(whole_dim(size) for size in value.shape))
        how = self._how(value, division, chosen) if division else self._why_whole(value, chosen, pinned)
        sizes = {self.axis: self.size}
        return Row(
            name=value.name,
            count=1,
            shape=value.shape,
            local_shape=lies.local_shape(sizes),
            bytes=local_bytes(lies, sizes, value.dtype.itemsize),
            how=how,
            divided=division is not None,
            uneven=division is None and value.id not in pinned.whole and any(map(self._uneven, self._all(value))),
        )

    def _how(self, value: Value, division: Division, chosen: frozenset[int]) -> str:
        place = next(place for place, dim in enumerate(division.dims) if axes_of(dim))
        texts = []
        for leaf in dict.fromkeys(self.leaves[value.id][place]):
            if leaf in chosen:
                size, noun = self.sizes.get(leaf, 1), self.roles.nouns.get(leaf, "units")
                texts.append(f"{size // self.size} of {size} {noun}")
        kept = local_length(division.dims[place], {self.axis: self.size}) * self.size != value.shape[place]
        return f"dim {place}: {' and '.join(texts)}{', the rest whole' if kept else ''}"

    def _why_whole(self, value: Value, chosen: frozenset[int], pinned: Pinned) -> str:
        if value.id in pinned.whole:
            return "pinned whole"
        found = list(dict.fromkeys(self._all(value)))
        reasons: dict[int, str] = {}
        for leaf in found:
            rank, reason = self._why(leaf, chosen)
            reasons.setdefault(rank, reason)
        return reasons[min(reasons)] if reasons else "a single number"

    def _why(self, leaf: int, chosen: frozenset[int]) -> tuple[int, str]:
        """The reason that a class is not divided, and how much it matters beside others."""
        if leaf in (self.roles.counted - self.roles.looked_up) | self.roles.ranked:
            return 2, self.roles.obstacle(leaf)
        if obstacle := self.roles.obstacle(leaf):
            return (4 if leaf in self.roles.normed else 5), obstacle
        if problem := self._cannot(leaf):
            return 0, problem
        noun = f"{self.sizes.get(leaf, 1)} {self.roles.nouns.get(leaf, 'units')}"
        if not self.rivals[leaf].isdisjoint(chosen):
            return 3, f"its {noun} lie beside what is divided"
        return 1, f"dividing its {noun} would send more than it saves"


def _sizes(trees: Iterable[Tree]) -> dict[int, int]:
    """Of each class in them, but those of a single entry, how many entries it has."""
    found: dict[int, int] = {}
    for tree in trees:
        if tree.kind is not None:
            found |= _sizes(tree.children)
        elif tree.size > 1:
            found[tree.leaf] = tree.size
    return found
