"""Where size can be moved from what layers read into their weights: read from the graph, not from names.

A norm's weight, or the rows of a linear layer, can be divided by a positive factor for each channel, and the columns of
all linear layers that read it multiplied by the same, if between them nothing happens to a channel but what a factor
goes through: moves, sums over positions, products with other numbers, and cutting off what is negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelwright.graph import Graph, Operator, Value

_MOVES = "view _unsafe_view reshape expand permute transpose t unsqueeze squeeze clone contiguous slice select _to_copy"
_FIRST = {*_MOVES.split(), "relu", "neg", "native_dropout", "dropout", "index_select", "constant_pad_nd"}
_PRODUCTS = {"mul": ("self", "other"), "bmm": ("mat2",), "scaled_dot_product_attention": ("value",), "div": ("self",)}
_TURNS = ("t", "transpose", "permute")
_NORMS = ("native_layer_norm", "_fused_rms_norm")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Parameters that factors can be moved between, each with the dim of the channels.

    Attributes:
        gives: divided by the factors.
        takes: weights of linear layers, multiplied by them.
    """

    gives: tuple[tuple[str, int], ...]
    takes: tuple[tuple[str, int], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the linear layers that take the factors."""
        return tuple(name.rpartition(".")[0] for name, _ in self.takes)

    @torch.no_grad()
    def move(self, model: nn.Module, factors: Tensor) -> None:
        """Move positive ``factors [channels]``; what the model computes stays the same."""
        for name, dim in self.gives:
            parameter = model.get_parameter(name)
            parameter.div_(_along(factors, dim, parameter))
        for name, dim in self.takes:
            parameter = model.get_parameter(name)
            parameter.mul_(_along(factors, dim, parameter))


def pairs_of(graph: Graph) -> list[Pair]:
    """All pairs of a model, in the order in which it runs; a layer takes from one only."""
    uses = _uses(graph)
    found: list[Pair] = []
    taken: set[str] = set()
    for operator in graph.operators:
        gives = _gives(operator, graph, uses) if operator.phase == "forward" else None
        takes = _reached(operator.outputs[0], graph, uses) if gives else None
        if not gives or not takes or taken & {name for name, _ in takes} or not _aligned(graph, gives[0], takes):
            continue
        found.append(Pair(gives=gives, takes=tuple(takes)))
        taken |= {name for name, _ in takes}
    return found


def _along(factors: Tensor, dim: int, like: Tensor) -> Tensor:
    return factors.to(like).reshape([-1 if place == dim else 1 for place in range(like.dim())])


def _uses(graph: Graph) -> dict[int, list[Operator]]:
    uses: dict[int, list[Operator]] = {}
    for operator in graph.operators:
        for number in operator.inputs:
            uses.setdefault(number, []).append(operator)
    return uses


def _packet(operator: Operator) -> str:
    return operator.name.split(".")[1].removesuffix("_") if operator.name.startswith("aten.") else ""


def _gives(operator: Operator, graph: Graph, uses: dict[int, list[Operator]]) -> tuple[tuple[str, int], ...] | None:
    """The parameters whose channels are those of what ``operator`` returns; ``None`` where there are none."""
    packet = _packet(operator)
    if packet in ("mm", "addmm"):
        given = _linear(operator, graph, uses)
        weight = given and (given[0], 1 - given[1])
    elif packet in _NORMS:
        weight = _own(operator.input("weight"), graph, uses)
    elif packet == "mul":
        sides = (_own(operator.input(side), graph, uses) for side in ("self", "other"))
        weight = next((side for side in sides if side is not None), None)
    else:
        return None
    if not weight:
        return None
    bias = operator.input("self" if packet == "addmm" else "bias")
    if bias is None:
        return (weight,)
    own = _own(bias, graph, uses)
    return own and (weight, own)


def _own(number: int | None, graph: Graph, uses: dict[int, list[Operator]]) -> tuple[str, int] | None:
    """A parameter of one dim that is used once."""
    value = _used_once(number, graph, uses)
    return (value.name, 0) if value is not None and len(value.shape) == 1 else None


def _used_once(number: int | None, graph: Graph, uses: dict[int, list[Operator]]) -> Value | None:
    if number is None or graph.values[number].kind != "parameter" or len(uses[number]) != 1:
        return None
    return graph.values[number]


def _linear(operator: Operator, graph: Graph, uses: dict[int, list[Operator]]) -> tuple[str, int] | None:
    """The weight of a linear layer, used nowhere else, and its dim that goes with what the layer reads."""
    number = operator.input("mat2")
    assert number is not None
    value = _used_once(number, graph, uses)
    if value is not None:
        return value.name, 0
    producer = graph.values[number].producer
    if producer is None or len(uses[number]) != 1 or _packet(graph.operators[producer]) not in _TURNS:
        return None
    turned = _used_once(graph.operators[producer].input("self"), graph, uses)
    return None if turned is None else (turned.name, 1)


def _reached(start: int, graph: Graph, uses: dict[int, list[Operator]]) -> list[tuple[str, int]] | None:
    """The linear layers at the end of all ways from a value; ``None`` where a way ends elsewhere."""
    ends: dict[tuple[str, int], None] = {}
    seen, open_ones = {start}, [start]
    outputs = {value.id for value in graph.outputs}
    while open_ones:
        number = open_ones.pop()
        if number in outputs:
            return None
        for operator in uses.get(number, []):
            if _packet(operator) in ("mm", "addmm") and operator.input(_left(operator)) == number:
                end = _linear(operator, graph, uses)
                if end is None or operator.input("mat2") == number:
                    return None
                ends[end] = None
            elif _passes(operator, number, seen, graph):
                seen.add(operator.outputs[0])
                open_ones.append(operator.outputs[0])
            else:
                return None
    return list(ends)


def _left(operator: Operator) -> str:
    return "mat1" if "mat1" in operator.arguments else "self"


def _passes(operator: Operator, number: int, seen: set[int], graph: Graph) -> bool:
    """Whether a factor on the channels of a value is one on those of what comes out."""
    packet = _packet(operator)
    if packet in _FIRST:
        return operator.inputs[0] == number
    if packet == "cat":  # with an empty cache, say
        return all(each == number or 0 in graph.values[each].shape for each in operator.inputs)
    places = _PRODUCTS.get(packet, ())
    others = [each for each in operator.inputs if each != number]
    alone = sum(operator.input(name) == number for name in operator.arguments) == 1
    return alone and any(operator.input(place) == number for place in places) and not seen & set(others)


def _aligned(graph: Graph, give: tuple[str, int], takes: list[tuple[str, int]]) -> bool:
    """Whether channel ``i`` of the one is channel ``i`` of all others."""
    value = graph.parameters[give[0]].id
    return all(graph.dimensions.same((value, give[1]), (graph.parameters[name].id, dim)) for name, dim in takes)
