"""Operators that sum, average, compare or normalise over dims."""

from __future__ import annotations

from collections.abc import Sequence

from modelwright.graph.operators.context import Context
from modelwright.graph.operators.rule import Rule


def _reduced(context: Context, dims: Sequence[int]) -> list[int]:
    """Places of the dims that are reduced."""
    wanted = context.argument("dim")
    if wanted is None or wanted == []:
        return list(range(len(dims)))
    return [each % len(dims) for each in ([wanted] if isinstance(wanted, int) else wanted)] if dims else []


def reduce(context: Context) -> None:
    """The order of what is reduced does not matter."""
    dims = context.of("self")
    gone = _reduced(context, dims)
    if context.argument("keepdim"):
        kept = [context.new(1) if place in gone else each for place, each in enumerate(dims)]
    else:
        kept = [each for place, each in enumerate(dims) if place not in gone]
    context.give(*(kept for _ in context.operator.outputs))


def pick(context: Context) -> None:
    """The result names places of what is reduced."""
    dims = context.of("self")
    if "dim" not in context.operator.arguments:
        return reduce(context)
    context.freeze([dims[place] for place in _reduced(context, dims)], f"{context.operator.name} names its places")
    return reduce(context)


def along(context: Context) -> None:
    """Each entry sees the others, whatever their order."""
    dims = context.of("self")
    context.give(*(dims for _ in context.operator.outputs))


def in_order(context: Context) -> None:
    """Each entry sees those before it, or is given a new place."""
    dims = context.of("self")
    context.freeze([dims[context.argument("dim")]] if dims else [], f"{context.operator.name} looks at the order")
    context.give(*(dims for _ in context.operator.outputs))


def topk(context: Context) -> None:
    """Some entries, in an order of their own, and the places they had."""
    dims = list(context.of("self"))
    place = context.argument("dim")
    reason = f"{context.operator.name} names its places"
    context.freeze([dims[place]], reason)
    dims[place] = context.new(context.argument("k"), reason)
    context.give(dims, dims)


def nll_loss(context: Context) -> None:
    """Targets name classes."""
    dims = context.of("self")
    named = dims[1:2] if len(dims) > 1 else dims
    context.freeze(named, "targets name its places")
    if (weight := context.optional("weight")) is not None:
        context.join(named, weight)
    kept = [dims[0], *dims[2:]] if len(dims) > 1 else []
    context.join(kept, context.of("target"))
    context.give(kept if context.shape() else [])


def loss(context: Context) -> None:
    """Number by number, then perhaps over all."""
    dims = context.broadcast(*(context.dims[each] for each in context.operator.inputs))
    context.give(dims if len(context.shape()) == len(dims) else [])


_REDUCE: tuple[str, ...] = (
    "sum",
    "mean",
    "amax",
    "amin",
    "prod",
    "any",
    "all",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "logsumexp",
)
_REDUCE += ("linalg_vector_norm", "norm", "nansum", "count_nonzero")
REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(_REDUCE, reduce),
    **dict.fromkeys(("max", "min", "argmax", "argmin", "median", "mode"), pick),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"), along),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "sort", "argsort", "cummax", "cummin"), in_order),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), nll_loss),
    **dict.fromkeys(("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy"), loss),
    "binary_cross_entropy_with_logits": loss,
    "topk": topk,
}
