"""Operators whose inputs name places by number: what is named so cannot be moved without them."""

from __future__ import annotations

from typing import Any

from modelwright.graph.operators.context import Context, NoRule
from modelwright.graph.operators.rule import Rule
from modelwright.graph.records import Ref

_NAMED = "numbers name its places"


def embedding(context: Context) -> None:
    """Rows of a table."""
    table = context.of("weight")
    context.freeze(table[:1], _NAMED)
    context.give([*context.of("indices"), table[1]])


def index_select(context: Context) -> None:
    """Entries of one dim."""
    dims = list(context.of("self"))
    place = context.argument("dim")
    context.freeze([dims[place]], _NAMED)
    dims[place] = context.of("index")[0]
    context.give(dims)


def _indices(context: Context) -> dict[int, int]:
    """The value of the index of each dim that has one."""
    given: Any = context.operator.arguments["indices"]
    return {place: each.value for place, each in enumerate(given) if isinstance(each, Ref)}


def index(context: Context) -> None:
    """Entries by several indices, which are broadcast to each other."""
    dims, indices = context.of("self"), _indices(context)
    if any(not context.values[each].dtype.is_signed for each in indices.values()):
        raise NoRule("mask")
    context.freeze([dims[place] for place in indices], _NAMED)
    taken = context.broadcast(*(context.dims[each] for each in indices.values()))
    kept = [each for place, each in enumerate(dims) if place not in indices]
    places = list(indices)
    first = places[0] if places[-1] - places[0] + 1 == len(places) else 0
    context.give([*kept[:first], *taken, *kept[first:]])


def index_put(context: Context) -> None:
    """What is written at numbered places of the first dims; the other dims go along."""
    dims, indices = context.of("self"), _indices(context)
    masked = any(not context.values[each].dtype.is_signed for each in indices.values())
    if masked or list(indices) != list(range(len(indices))):
        raise NoRule("mask, or not the first dims")
    context.freeze(dims[: len(indices)], _NAMED)
    taken = context.broadcast(*(context.dims[each] for each in indices.values()))
    context.broadcast([*taken, *dims[len(indices) :]], context.of("values"))
    context.give(dims)


def gather(context: Context) -> None:
    """One entry of a dim for each number; the other dims go along."""
    dims, numbers = context.of("self"), context.of("index")
    _along(context, dims, numbers)
    context.give(numbers)


def scatter(context: Context) -> None:
    """The reverse of gather."""
    dims, numbers, source = context.of("self"), context.of("index"), context.optional("src")
    _along(context, dims, numbers)
    if source is not None:
        context.join(numbers, source)
    context.give(dims)


def _along(context: Context, dims: list[int], numbers: list[int]) -> None:
    place = context.argument("dim") % len(dims) if dims else 0
    context.freeze(dims[place : place + 1], _NAMED)
    for at, (each, number) in enumerate(zip(dims, numbers, strict=True)):
        if at == place:
            continue
        if context.terms.size(each) == context.terms.size(number):
            context.terms.unify(each, number)
        else:
            context.freeze([each, number], "only a part of it is read")


INDEXING: dict[str, Rule] = {
    **dict.fromkeys(("index", "_unsafe_index"), index),
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), index_put),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    "embedding": embedding,
    "index_select": index_select,
    "gather": gather,
}
