"""Roles: what a model does with the entries of each class of dims. Only operators are looked at, never names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modelwright.graph import Graph, Operator

Leaves = Mapping[int, list[list[int]]]

_MATRIX = {"mm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "mv": ("self", "vec")}
_BATCHED = {"bmm": ("self", "mat2"), "baddbmm": ("batch1", "batch2")}
_STATISTICS = {"mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm"}
_NO_STATISTICS = {"convolution", "embedding", "scaled_dot_product_attention", *_MATRIX, *_BATCHED}


@dataclass
class Roles:
    """By number of a class, what happens to it in the forward pass.

    Attributes:
        written: products with a weight make it.
        twice: some tensor has it in two dims.
        looked_up: numbers of the batch name rows of a table.
        counted: numbers that the code makes name rows of a table.
        normed: values are divided by statistics over it.
        scored: products of activations with each other sum over it.
        mixed: neighbours are mixed along it.
        ranked: the largest along it are found, for which a rank needs them all.
        nouns: what its entries are.
    """

    written: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    looked_up: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    normed: set[int] = field(default_factory=set)
    scored: set[int] = field(default_factory=set)
    mixed: set[int] = field(default_factory=set)
    ranked: set[int] = field(default_factory=set)
    nouns: dict[int, str] = field(default_factory=dict)

    def obstacle(self, leaf: int) -> str:
        """Why a class is not to be divided; empty where it may be."""
        obstacles = (
            (leaf in self.mixed, "neighbours are mixed along it"),
            (leaf in self.counted and leaf not in self.looked_up, "its rows are places that the code counts"),
            (leaf in self.normed, "norms reduce over it"),
            (leaf in self.scored, "scores sum over it"),
            (leaf in self.ranked, "the largest along it are chosen"),
            (leaf in self.twice, "a tensor has it in two dims"),
            (leaf not in self.written | self.looked_up, "no product with a weight makes it"),
        )
        return next((reason for holds, reason in obstacles if holds), "")


def packet(operator: Operator) -> str:
    """The operator's name without namespace and overload."""
    return operator.name.split(".")[1].removesuffix("_")


def roles(graph: Graph, leaves: Leaves) -> Roles:
    """What happens to each class in the forward pass."""
    found, reading = Roles(twice=_in_two_dims(graph, leaves)), _Reading(graph)
    for operator in graph.operators:
        if operator.phase == "forward":
            _look(operator, leaves, reading, found)
            reading.follow(operator)
    _find_norms(graph, leaves, found)
    return found


def _in_two_dims(graph: Graph, leaves: Leaves) -> set[int]:
    found = set[int]()
    for value in graph.values:
        if value.kind != "gradient":
            counted = Counter(leaf for dim in leaves[value.id] for leaf in set(dim))
            found.update(leaf for leaf, dims in counted.items() if dims > 1)
    return found


class _Reading:
    """Which values are made of weights alone, and which depend on the content of the batch."""

    def __init__(self, graph: Graph) -> None:
        self.weights = {value.id for value in graph.parameters.values()}
        self.batch = {value.id for value in graph.inputs.values()}

    def follow(self, operator: Operator) -> None:
        if operator.inputs and self.weights.issuperset(operator.inputs):
            self.weights.update(operator.outputs)
        if not self.batch.isdisjoint(operator.inputs):
            self.batch.update(operator.outputs)


def _look(operator: Operator, leaves: Leaves, reading: _Reading, found: Roles) -> None:
    name = packet(operator)
    if name in _MATRIX or name in _BATCHED:
        _look_at_product(operator, leaves, reading, found)
    elif name == "convolution":
        _look_at_convolution(operator, leaves, found)
    elif name == "embedding":
        _look_at_table(operator, leaves, reading, found)
    elif name == "scaled_dot_product_attention":
        _look_at_attention(operator, leaves, found)
    elif name == "topk":
        _look_at_choice(operator, leaves, found)


def _look_at_product(operator: Operator, leaves: Leaves, reading: _Reading, found: Roles) -> None:
    left, right = (operator.input(name) for name in {**_MATRIX, **_BATCHED}[packet(operator)])
    assert left is not None
    assert right is not None
    weights = [each for each in (left, right) if each in reading.weights]
    if packet(operator) in _BATCHED:
        found.nouns |= dict.fromkeys(leaves[left][0], "heads")
    if not weights:
        found.scored.update(leaves[left][-1])
        return
    for number in weights:
        made = leaves[number][-2] if number == left else leaves[number][-1]
        found.written.update(made if len(leaves[number]) > 1 else ())


def _look_at_choice(operator: Operator, leaves: Leaves, found: Roles) -> None:
    given, dim = operator.input("self"), operator.arguments["dim"]
    assert given is not None
    assert isinstance(dim, int)
    if leaves[given]:
        found.ranked.update(leaves[given][dim])


def _look_at_convolution(operator: Operator, leaves: Leaves, found: Roles) -> None:
    given, weight = operator.input("input"), operator.input("weight")
    assert given is not None
    assert weight is not None
    found.written.update(leaves[operator.outputs[0]][1])
    found.mixed.update(each for dim in leaves[weight][2:] for each in dim)
    for each in (*leaves[given][1], *leaves[operator.outputs[0]][1]):
        found.nouns.setdefault(each, "channels")


def _look_at_table(operator: Operator, leaves: Leaves, reading: _Reading, found: Roles) -> None:
    table, indices = operator.input("weight"), operator.input("indices")
    assert table is not None
    rows = leaves[table][0]
    (found.looked_up if indices in reading.batch else found.counted).update(rows)
    found.nouns |= dict.fromkeys(rows, "rows")


def _look_at_attention(operator: Operator, leaves: Leaves, found: Roles) -> None:
    query = operator.input("query")
    assert query is not None
    found.scored.update(leaves[query][-1])
    group, *shared = leaves[query][-3]
    found.nouns |= dict.fromkeys(shared, "heads of each group")
    found.nouns[group] = "groups of heads" if shared else "heads"


# --- norms: a value meets statistics over its own entries


def _find_norms(graph: Graph, leaves: Leaves, found: Roles) -> None:
    over: dict[int, set[int]] = {}
    for operator in graph.operators:
        if operator.phase == "forward":
            _find_norm(operator, leaves, over, found)


def _find_norm(operator: Operator, leaves: Leaves, over: dict[int, set[int]], found: Roles) -> None:
    name = packet(operator)
    if name in ("native_layer_norm", "_fused_rms_norm", "native_group_norm"):
        found.normed |= _normed_at_once(operator, leaves)
        return
    if name in _NO_STATISTICS:
        return
    known = set[int]().union(*(over.get(each, ()) for each in operator.inputs))
    present = set(_all(leaves, operator.inputs))
    if len(operator.inputs) > 1:
        found.normed |= known & present
    if name in _STATISTICS:
        known |= present - set(_all(leaves, operator.outputs))
    known -= set(_all(leaves, operator.outputs))
    if known:
        over |= dict.fromkeys(operator.outputs, known)


def _normed_at_once(operator: Operator, leaves: Leaves) -> set[int]:
    """A norm that is one operator gives its statistics beside its result."""
    given, statistics = operator.input("input"), operator.outputs[-1]
    assert given is not None
    return {each for dim in leaves[given] for each in dim if each not in set(_all(leaves, [statistics]))}


def _all(leaves: Leaves, values: Iterable[int]) -> Iterable[int]:
    return (each for value in values for dim in leaves[value] for each in dim)
