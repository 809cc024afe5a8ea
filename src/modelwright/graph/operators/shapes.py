"""Operators that only rearrange: views, permutations, parts, concatenations."""

from __future__ import annotations

from modelwright.graph.operators.context import Context
from modelwright.graph.operators.rule import Rule

_PART = "a part of it is used that cannot be told apart"


def view(context: Context) -> None:
    """Divide the row of all entries anew, from the innermost dim on."""
    given, shape = context.of("self"), context.shape()
    rest, dims = context.terms.product(given), []
    for size in reversed(shape):
        pair = context.terms.split(rest, size)
        if pair is None:
            return _opaque(context, given)
        rest = pair[0]
        dims.append(pair[1])
    if context.terms.size(rest) != 1:  # of another type, whose entries are wider
        return _opaque(context, given)
    return context.give(dims[::-1])


def _opaque(context: Context, given: list[int]) -> None:
    reason = "a view divides it where nothing else does"
    context.freeze(given, reason)
    context.give([context.new(size, reason) for size in context.shape()])


def transpose(context: Context) -> None:
    """Two dims change places."""
    dims = list(context.of("self"))
    first, second = context.argument("dim0"), context.argument("dim1")
    dims[first], dims[second] = dims[second], dims[first]
    context.give(dims)


def t(context: Context) -> None:
    """The dims in reverse."""
    context.give(context.of("self")[::-1])


def permute(context: Context) -> None:
    """The dims in another order."""
    dims = context.of("self")
    context.give([dims[each] for each in context.argument("dims")])


def unsqueeze(context: Context) -> None:
    """A new dim of size 1."""
    dims = list(context.of("self"))
    place = context.argument("dim")
    dims.insert(place + len(dims) + 1 if place < 0 else place, context.new(1))
    context.give(dims)


def squeeze(context: Context) -> None:
    """Dims of size 1 go: all, one, or some."""
    dims, wanted = context.of("self"), context.argument("dim")
    listed = range(len(dims)) if wanted is None else [wanted] if isinstance(wanted, int) else wanted
    places = {each % len(dims) for each in listed} if dims else set()
    gone = {place for place in places if context.terms.size(dims[place]) == 1}
    context.give([each for place, each in enumerate(dims) if place not in gone])


def expand(context: Context) -> None:
    """Dims of size 1 are repeated: the copies are alike."""
    given, shape = context.of("self"), context.shape()
    dims = [context.new(1)] * (len(shape) - len(given)) + given
    pairs = zip(dims, shape, strict=True)
    context.give([each if context.terms.size(each) == size else context.new(size) for each, size in pairs])


def repeat(context: Context) -> None:
    """Whole copies, one behind the other."""
    given, times = context.of("self"), context.argument("repeats")
    dims = [context.new(1)] * (len(times) - len(given)) + given
    pairs = zip(dims, times, strict=True)
    context.give([context.terms.product((context.new(count), each)) if count != 1 else each for each, count in pairs])


def slice_(context: Context) -> None:
    """Some entries that follow each other, or each so many-th."""
    dims = list(context.of("self"))
    place = context.argument("dim") % len(dims)
    size, step = context.terms.size(dims[place]), context.argument("step") or 1
    start, end, _ = slice(context.argument("start"), context.argument("end")).indices(size)
    if step == 1:
        dims[place] = part(context, dims[place], start, end)
    elif size % step == 0 and start < step and end == size:
        dims[place] = _every(context, dims[place], step)
    else:
        dims[place] = _frozen_part(context, dims[place], context.shape()[place])
    context.give(dims)


def _every(context: Context, dim: int, step: int) -> int:
    pair = context.terms.split(dim, step)
    if pair is None:
        return _frozen_part(context, dim, context.terms.size(dim) // step)
    context.freeze([pair[1]], "one of each few is picked")
    return pair[0]


def part(context: Context, dim: int, start: int, end: int) -> int:
    """The entries ``start`` to ``end`` of a dim."""
    after = context.terms.cut(dim, start)
    pair = None if after is None else context.terms.cut(after[1], end - start)
    return _frozen_part(context, dim, end - start) if pair is None else pair[0]


def _frozen_part(context: Context, dim: int, size: int) -> int:
    context.freeze([dim], _PART)
    return context.new(size, _PART)


def select(context: Context) -> None:
    """One entry; the others stay together."""
    dims = list(context.of("self"))
    place = context.argument("dim") % len(dims)
    index = context.argument("index") % context.terms.size(dims[place])
    part(context, dims[place], index, index + 1)
    del dims[place]
    context.give(dims)


def split(context: Context) -> None:
    """Parts one behind the other, whose sizes the outputs have."""
    dims = context.of("self")
    place = context.argument("dim") % len(dims)
    start, outputs = 0, []
    for output in range(len(context.operator.outputs)):
        end = start + context.shape(output)[place]
        outputs.append([*dims[:place], part(context, dims[place], start, end), *dims[place + 1 :]])
        start = end
    context.give(*outputs)


def unbind(context: Context) -> None:
    """Each entry by itself."""
    dims = context.of("self")
    place = context.argument("dim") % len(dims)
    for index in range(context.terms.size(dims[place])):
        part(context, dims[place], index, index + 1)
    context.give(*([*dims[:place], *dims[place + 1 :]] for _ in context.operator.outputs))


def cat(context: Context) -> None:
    """Tensors one behind the other."""
    rank = len(context.shape())
    given = [dims for dims in context.listed("tensors") if len(dims) == rank]
    place = context.argument("dim") % rank
    for dims in given[1:]:
        context.join([*given[0][:place], *given[0][place + 1 :]], [*dims[:place], *dims[place + 1 :]])
    together = context.terms.total([dims[place] for dims in given])
    context.give([*given[0][:place], together, *given[0][place + 1 :]])


def stack(context: Context) -> None:
    """Tensors in a new dim, each in its place."""
    given = context.listed("tensors")
    for dims in given[1:]:
        context.join(given[0], dims)
    place = context.argument("dim") % len(context.shape())
    together = context.terms.total([context.new(1) for _ in given])
    context.give([*given[0][:place], together, *given[0][place:]])


def pad(context: Context) -> None:
    """Padded dims have places; the others stay."""
    dims, padding = list(context.of("self")), context.argument("pad")
    for place, size in enumerate(context.shape()):
        at = 2 * (len(dims) - 1 - place)
        if at + 1 < len(padding) and (padding[at] or padding[at + 1]):
            context.freeze([dims[place]], "it is padded")
            dims[place] = context.new(size, "it is padded")
    context.give(dims)


def moved(context: Context) -> None:
    """Entries change places along some dims."""
    dims = context.of("self")
    wanted = context.argument("dims") or range(len(dims))
    context.freeze([dims[each] for each in wanted], f"{context.operator.name} moves entries")
    context.give(dims)


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "flatten"), view),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), split),
    **dict.fromkeys(("flip", "roll"), moved),
    "transpose": transpose,
    "t": t,
    "permute": permute,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": repeat,
    "slice": slice_,
    "select": select,
    "unbind": unbind,
    "cat": cat,
    "stack": stack,
    "constant_pad_nd": pad,
}
