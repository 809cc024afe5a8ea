"""Pins: what the user wants whole, or divided at a dim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.graph import Graph, Tree

Pins = Mapping[str, int | None]


@dataclass(frozen=True)
class Pinned:
    """What pins mean for a model.

    Attributes:
        whole: numbers of the values that stay whole.
        divided: classes that are divided.
    """

    whole: frozenset[int]
    divided: frozenset[int]


def read_pins(pins: Pins, graph: Graph, problem: Callable[[int], str]) -> Pinned:
    """The parameters and classes that ``{pattern of names: dim or None}`` means.

    Args:
        pins: given by the user.
        graph: of the model.
        problem: why a class cannot be divided; empty where it can.

    Raises:
        ModelwrightError: a pattern fits nothing, or what it asks for cannot be.
    """
    whole, divided = set[int](), set[int]()
    for pattern, dim in pins.items():
        names = [name for name in graph.parameters if fnmatchcase(name, pattern)]
        if not names:
            raise ModelwrightError(
                f"no parameter is called '{pattern}'", where="tensor.pins", remedy=nearest(pattern, graph.parameters)
            )
        for name in names:
            if dim is None:
                whole.add(graph.parameters[name].id)
            else:
                divided.add(_class_of(name, dim, graph, problem))
    return Pinned(frozenset(whole), frozenset(divided))


def _class_of(name: str, dim: int, graph: Graph, problem: Callable[[int], str]) -> int:
    value = graph.parameters[name]
    where = f"tensor.pins: {name}"
    if not -len(value.shape) <= dim < len(value.shape):
        raise ModelwrightError(f"'{name}' has no dim {dim}: its shape is {list(value.shape)}", where=where)
    place = dim % len(value.shape)
    candidates = _throughout(graph.dimensions.tree(value.id, place))
    problems = [found for leaf in candidates if (found := problem(leaf))]
    if len(problems) == len(candidates):
        raise ModelwrightError(
            f"dim {place} of '{name}', {graph.dimensions.describe(value.id, place)}, cannot be divided: "
            f"{problems[0] if problems else 'no part of it belongs to all of it'}",
            where=where,
            remedy="pin another dim, leave the pin away, or change the size of the axis",
        )
    return next(leaf for leaf in candidates if not problem(leaf))


def _throughout(tree: Tree) -> list[int]:
    """Classes that divide all of a dim, the outermost first."""
    if tree.kind is None:
        return [tree.leaf]
    below = [_throughout(child) for child in tree.children]
    if tree.kind == "product":
        return [leaf for leaves in below for leaf in leaves]
    return [leaf for leaf in below[0] if all(leaf in leaves for leaves in below[1:])]
