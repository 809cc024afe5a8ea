"""Operators that go number by number, and those that make tensors from nothing."""

from __future__ import annotations

from modelwright.graph.operators.context import Context
from modelwright.graph.operators.rule import Rule


def elementwise(context: Context) -> None:
    """All inputs are broadcast to the output."""
    dims = context.broadcast(*(context.dims[each] for each in context.operator.inputs))
    context.give(*(dims for _ in context.operator.outputs))


def like_first(context: Context) -> None:
    """The output has the dims of the first input."""
    dims = context.dims[context.operator.inputs[0]]
    context.give(*(dims for _ in context.operator.outputs))


def into_first(context: Context) -> None:
    """What is written is broadcast to the first input."""
    first, *others = (context.dims[each] for each in context.operator.inputs)
    context.broadcast(first, *others)
    context.give(first)


def new(context: Context) -> None:
    """All entries are alike, or random: nothing tells them apart."""
    context.give()


def counted(context: Context) -> None:
    """Entries know their place."""
    name = context.operator.name
    context.give([context.new(size, f"{name} counts places") for size in context.shape()])


def positional(context: Context) -> None:
    """The last two dims know their places, as in a triangle."""
    dims = context.of("self")
    context.freeze(dims[-2:], f"{context.operator.name} looks at places")
    context.give(dims)


_LIKE: tuple[str, ...] = (
    "_to_copy",
    "clone",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "rand_like",
    "randn_like",
)
_LIKE += (
    "native_dropout",
    "fill",
    "zero",
    "uniform",
    "nan_to_num",
    "contiguous",
    "exponential",
    "lift_fresh_copy",
)
_NEW: tuple[str, ...] = (
    "zeros",
    "ones",
    "full",
    "empty",
    "rand",
    "randn",
    "randint",
    "scalar_tensor",
    "empty_strided",
    "normal_functional",
)
_NEW += ("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")
ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(_LIKE, like_first),
    **dict.fromkeys(_NEW, new),
    **dict.fromkeys(("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "randperm"), counted),
    **dict.fromkeys(("tril", "triu"), positional),
    **dict.fromkeys(
        ("bernoulli", "normal", "where", "masked_fill", "native_dropout_backward", "hardtanh_backward", "floor_divide"),
        elementwise,
    ),
    "copy": into_first,
}
