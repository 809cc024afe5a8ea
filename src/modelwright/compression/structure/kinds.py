"""What the units of a class are, and which tensors make and read them. Only operators are looked at, never names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from modelwright.graph import Graph, Operator, Tree
from modelwright.parallel.tensor.roles import packet, roles

_NOUNS = {"heads": "head", "groups of heads": "kv-group", "heads of each group": "head-of-group"}
_FACTORS = {"mm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "bmm": ("self", "mat2"), "baddbmm": ("batch1", "batch2")}

Leaves = Mapping[int, list[list[int]]]


class Kinds:
    """What the classes of a graph are for the model.

    Args:
        graph: of the forward pass.

    Attributes:
        leaves: by number of a value, the indivisible parts of each of its dims.
        reads: pairs of a parameter's value and a part over which a product with it sums.
        makes: pairs of a parameter's value and a part that a product with it makes.
        used: the values of parameters and buffers that some operator reads.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.leaves: Leaves = {value.id: graph.dimensions.leaves(value.id) for value in graph.values}
        self.roles = roles(graph, self.leaves)
        self.reads: set[tuple[int, int]] = set()
        self.makes: set[tuple[int, int]] = set()
        self.used = {number for operator in graph.operators for number in operator.inputs}
        self._outer = _outer(graph, self.leaves)
        self._streams = self.roles.normed - self._grouped()
        self._follow()

    def of(self, leaf: int) -> str:
        """The kind of a class, see :class:`modelwright.compression.structure.units.UnitClass`."""
        found, noun = self.roles, self.roles.nouns.get(leaf, "")
        if noun in _NOUNS:
            return self._head(leaf, _NOUNS[noun])
        if leaf in found.mixed:
            return "kernel"
        if leaf in found.looked_up | found.counted:
            return "row"
        if any(found.nouns.get(each, "") in _NOUNS for each in self._outer[leaf]):
            return "head-width"
        if noun == "channels" and leaf not in self._streams:
            return self._channel(leaf)
        return "width" if leaf in found.normed else "unit"

    def _grouped(self) -> set[int]:
        """What norms see in groups."""
        found = [each for each in self.graph.operators if packet(each) == "native_group_norm"]
        return {leaf for operator in found for dim in self.leaves[operator.inputs[0]] for leaf in dim}

    def _head(self, leaf: int, kind: str) -> str:
        """Heads that share keys are seen as such where attention is one operator; else by heads inside of heads."""
        if kind != "head":
            return kind
        if any(self._is_head(each) for each in self._outer[leaf]):
            return "head-of-group"
        return "kv-group" if any(leaf in outer and self._is_head(each) for each, outer in self._outer.items()) else kind

    def _is_head(self, leaf: int) -> bool:
        return self.roles.nouns.get(leaf, "") in _NOUNS

    def _channel(self, leaf: int) -> str:
        if any(self.roles.nouns.get(each, "") == "channels" for each in self._outer[leaf]):
            return "channel-of-group"
        inner = {each for each, outer in self._outer.items() if leaf in outer}
        return "channel-group" if any(self.roles.nouns.get(each, "") == "channels" for each in inner) else "channel"

    def _follow(self) -> None:
        """Find products with weights, also with such as were rearranged before."""
        owners: dict[int, set[int]] = {value.id: {value.id} for value in self.graph.parameters.values()}
        for operator in self.graph.operators:
            if operator.phase != "forward":
                continue
            known = [owners.get(each) for each in operator.inputs]
            if operator.inputs and all(known):
                together = set[int]().union(*(each for each in known if each))
                owners |= dict.fromkeys(operator.outputs, together)
            for weight, read, made in self._contracted(operator):
                for owner in owners.get(weight, ()):
                    self.reads.update((owner, leaf) for leaf in read)
                    self.makes.update((owner, leaf) for leaf in made)

    def _contracted(self, operator: Operator) -> Iterator[tuple[int, list[int], list[int]]]:
        """Of each factor of a product: its value, what is summed over, what stays."""
        name = packet(operator)
        if name in _FACTORS:
            left, right = (operator.input(each) for each in _FACTORS[name])
            assert left is not None
            assert right is not None
            yield left, self.leaves[left][-1], _all(self.leaves[left][:-1])
            rows = self.leaves[right]
            yield right, rows[-2], _all([*rows[:-2], rows[-1]])
        elif name == "convolution" and (weight := operator.input("weight")) is not None:
            into, out_of = (0, 1) if operator.arguments["transposed"] else (1, 0)
            yield weight, self.leaves[weight][into], self.leaves[weight][out_of]


def _all(dims: Iterable[list[int]]) -> list[int]:
    return [leaf for dim in dims for leaf in dim]


def _outer(graph: Graph, leaves: Leaves) -> dict[int, set[int]]:
    """Of each part, those that are factors of the same dim of a parameter, further out."""
    found: dict[int, set[int]] = defaultdict(set)
    for value in graph.parameters.values():
        for dim, parts in enumerate(leaves[value.id]):
            if len(parts) > 1:
                _add_factors(graph.dimensions.tree(value.id, dim), found)
    return found


def _add_factors(tree: Tree, found: dict[int, set[int]]) -> None:
    outer = set[int]()
    for child in tree.children:
        _add_factors(child, found)
        if tree.kind == "product":
            for leaf in child.leaves():
                found[leaf] |= outer
            outer.update(child.leaves())
