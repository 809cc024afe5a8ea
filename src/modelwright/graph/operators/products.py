"""Matrix products, convolutions and attention."""

from __future__ import annotations

from modelwright.graph.operators.context import Context, NoRule
from modelwright.graph.operators.rule import Rule

_NEIGHBOURS = "neighbours are mixed"


def mm(context: Context) -> None:
    """``[n, k] x [k, m]``, and with ``addmm`` something that is added to ``[n, m]``."""
    names = ("mat1", "mat2") if "mat1" in context.operator.arguments else ("self", "mat2")
    left, right = (context.of(name) for name in names)
    context.join(left[1:], right[:1])
    dims = [left[0], right[1]]
    if names[0] == "mat1":
        context.broadcast(dims, context.of("self"))
    context.give(dims)


def bmm(context: Context) -> None:
    """``[b, n, k] x [b, k, m]``, and with ``baddbmm`` something that is added to ``[b, n, m]``."""
    names = ("batch1", "batch2") if "batch1" in context.operator.arguments else ("self", "mat2")
    left, right = (context.of(name) for name in names)
    context.join([left[0], left[2]], right[:2])
    dims = [left[0], left[1], right[2]]
    if names[0] == "batch1":
        context.broadcast(dims, context.of("self"))
    context.give(dims)


def grouped(context: Context) -> None:
    """``[rows, k]``, in runs, each x one of ``[groups, k, m]``; what else torch calls so has no rule."""
    names = ("input", "weight") if "weight" in context.operator.arguments else ("self", "mat2")
    left, right = (context.of(name) for name in names)
    if (len(left), len(right)) != (2, 3):
        raise NoRule("dims")
    context.join(left[1:], right[1:2])
    context.freeze(right[:1], "numbers name its places")
    context.give([left[0], right[2]])


def mv(context: Context) -> None:
    """``[n, k] x [k]``."""
    matrix = context.of("self")
    context.join(matrix[1:], context.of("vec"))
    context.give(matrix[:1])


def dot(context: Context) -> None:
    """``[k] x [k]``."""
    context.join(context.of("self"), context.of("tensor"))
    context.give([])


def convolution(context: Context) -> None:
    """``input [n, c, ...]``, ``weight [o, c / groups, ...]``; transposed, ``weight [c, o / groups, ...]``."""
    given, weight, groups = context.of("input"), context.of("weight"), context.argument("groups")
    into, out_of = (weight[0], weight[1]) if context.argument("transposed") else (weight[1], weight[0])
    if groups == 1:
        context.join([given[1]], [into])
        channels = out_of
    elif context.argument("transposed"):
        context.join([given[1]], [into])
        channels = context.terms.product((_groups(context, into, groups)[0], out_of))
    else:
        group, inner = _groups(context, given[1], groups)
        context.join([group, inner], [_groups(context, out_of, groups)[0], into])
        channels = out_of
    if (bias := context.optional("bias")) is not None:
        context.join(bias, [channels])
    context.give([given[0], channels, *_pixels(context, given[2:], weight[2:])])


def _groups(context: Context, channels: int, groups: int) -> tuple[int, int]:
    pair = context.terms.split(channels, context.terms.size(channels) // groups)
    if pair is None:
        raise NoRule("groups")
    return pair


def _pixels(context: Context, given: list[int], kernel: list[int]) -> list[int]:
    shape = context.shape()[2:]
    small = all(context.terms.size(each) == 1 for each in kernel)
    if small and set(context.argument("stride")) == {1} and not any(context.argument("padding")):
        return given
    context.freeze([*given, *kernel], _NEIGHBOURS)
    return [context.new(size, _NEIGHBOURS) for size in shape]


def attention(context: Context) -> None:
    """``query [..., heads, time, width]``, of whose heads several may share one of key and value."""
    query, key, value = (context.of(name) for name in ("query", "key", "value"))
    context.join([key[-2], key[-1]], [value[-2], query[-1]])
    if context.argument("enable_gqa"):
        context.join(key[-3:-2], value[-3:-2])
        batch = [*context.broadcast(query[:-3], key[:-3], value[:-3]), query[-3]]
        shared = context.terms.size(query[-3]) // context.terms.size(key[-3])
        context.join([query[-3]], [context.terms.product((key[-3], context.new(shared)))])
    else:
        batch = context.broadcast(query[:-2], key[:-2], value[:-2])
    if (mask := context.optional("attn_mask")) is not None:
        context.broadcast([*batch, query[-2], key[-2]], mask)
    if context.argument("is_causal"):
        context.freeze([query[-2], key[-2]], "attention is causal")
    context.give([*batch, query[-2], value[-1]], [*batch, query[-2]])


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("mm", "addmm"), mm),
    **dict.fromkeys(("bmm", "baddbmm"), bmm),
    "_grouped_mm": grouped,
    "transformers.grouped_mm_fallback": grouped,
    "mv": mv,
    "dot": dot,
    "convolution": convolution,
    "convolution_overrideable": convolution,
    "scaled_dot_product_attention": attention,
}
