"""Which classes may lose entries at all, before anything is tried: what the graph and the numbers of the code say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelwright.compression.structure.kinds import Kinds
from modelwright.compression.structure.solving import Numbers
from modelwright.compression.structure.trees import plain
from modelwright.graph import Graph, Tree
from modelwright.parallel.tensor.roles import packet


class Ties:
    """Classes that stay, with reasons, and classes that must keep equally many, because one number is both sizes.

    Attributes:
        frozen: by number of a part, why it stays.
    """

    def __init__(self) -> None:
        self.frozen: dict[int, str] = {}
        self._together: dict[int, int] = {}

    def group(self, leaf: int) -> int:
        """The first of the parts that must keep as many as this one."""
        while (other := self._together.get(leaf, leaf)) != leaf:
            leaf = other
        return leaf

    def freeze(self, leaf: int, reason: str) -> None:
        """Forbid that entries go; the first reason stays."""
        self.frozen.setdefault(leaf, reason)

    def tie(self, first: int, second: int) -> None:
        """Both keep equally many."""
        one, other = sorted((self.group(first), self.group(second)))
        if one != other:
            self._together[other] = one

    def settle(self) -> None:
        """What is tied to something frozen is frozen."""
        reasons = {self.group(leaf): reason for leaf, reason in reversed(self.frozen.items())}
        for leaf in list(self._together):
            if (reason := reasons.get(self.group(leaf))) is not None:
                self.freeze(leaf, reason)
                self.freeze(self.group(leaf), reason)


def freeze_by_graph(graph: Graph, kinds: Kinds, ties: Ties) -> None:
    """Freeze what has places, what the caller sees, and what the code computes with."""
    for value in graph.values:
        for leaf in _all(kinds, value.id):
            if reason := graph.dimensions.reason(leaf):
                ties.freeze(leaf, reason)
    for value in graph.inputs.values():
        for leaf in _all(kinds, value.id):
            ties.freeze(leaf, "the model's inputs have it")
    for value in graph.outputs:
        for leaf in _all(kinds, value.id):
            ties.freeze(leaf, "the model returns it")
    for leaf in _scaling(graph, kinds):
        ties.freeze(leaf, "attention divides its scores by the root of it")
    for leaf, line in _unseen(graph, kinds):
        ties.freeze(leaf, f"what is done with it depends on numbers: {line}")


def _all(kinds: Kinds, value: int) -> Iterator[int]:
    return (leaf for dim in kinds.leaves[value] for leaf in dim)


def _scaling(graph: Graph, kinds: Kinds) -> Iterator[int]:
    for operator in graph.operators:
        if packet(operator) == "scaled_dot_product_attention" and operator.arguments.get("scale") is None:
            query = operator.input("query")
            assert query is not None
            yield from kinds.leaves[query][-1]


def _unseen(graph: Graph, kinds: Kinds) -> Iterator[tuple[int, str]]:
    """All that a module touches whose code goes one way or another by the content of tensors: one way was seen."""
    lines = {each.module: each.line for each in graph.breaks}
    for operator in graph.operators:
        found = [
            line for module, line in lines.items() if f"{operator.module}.".startswith(f"{module}." if module else "")
        ]
        for value in (*operator.inputs, *operator.outputs) if found else ():
            yield from ((leaf, found[0]) for leaf in _all(kinds, value))


def tie_by_numbers(numbers: Numbers, ties: Ties) -> None:
    """Where one attribute is the size of several things, they keep equally many, or nothing goes from them."""
    for attribute, trees in numbers.direct().items():
        first, *others = [plain(each) for each in trees]
        for other in others:
            _tie(first, other, f"the number {attribute} is the size of several things", ties)


def _tie(one: Tree, other: Tree, reason: str, ties: Ties) -> None:
    if one == other:
        return
    if one.kind is None and other.kind is None:
        ties.tie(one.leaf, other.leaf)
    elif _alike(one, other):
        for first, second in zip(one.children, other.children, strict=True):
            _tie(first, second, reason, ties)
    else:
        for leaf in (*one.leaves(), *other.leaves()):
            ties.freeze(leaf, reason)


def _alike(one: Tree, other: Tree) -> bool:
    sizes: Sequence[list[int]] = [[child.size for child in each.children] for each in (one, other)]
    return one.kind == other.kind and sizes[0] == sizes[1]
