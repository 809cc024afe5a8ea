"""Normalisation: who shares statistics, and which weights belong to which dims."""

from __future__ import annotations

from modelwright.graph.operators.context import Context, NoRule
from modelwright.graph.operators.rule import Rule


def layer_norm(context: Context) -> None:
    """The last dims are normalised together; weight and bias have those dims."""
    dims = context.of("input")
    count = len(context.argument("normalized_shape"))
    for name in ("weight", "bias"):
        if (own := context.optional(name)) is not None:
            context.join(dims[-count:], own)
    left = dims[:-count]
    rows = [*left, *(context.new(1) for _ in range(count))]
    context.give(dims, *(rows for _ in context.operator.outputs[1:]))


def group_norm(context: Context) -> None:
    """Channels are normalised in groups, all groups alike: they are ``groups x channels of a group``."""
    dims, groups = context.of("input"), context.argument("group")
    pair = context.terms.split(dims[1], context.terms.size(dims[1]) // groups)
    if pair is None:
        raise NoRule("groups")
    for name in ("weight", "bias"):
        if (own := context.optional(name)) is not None:
            context.join(dims[1:2], own)
    group = pair[0] if groups > 1 else context.new(1)
    context.give(dims, *([dims[0], group] for _ in context.operator.outputs[1:]))


def batch_norm(context: Context) -> None:
    """Each channel by itself; weight, bias and running statistics have that dim."""
    dims = context.of("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (own := context.optional(name)) is not None:
            context.join(dims[1:2], own)
    shapes = [context.shape(place) for place in range(1, len(context.operator.outputs))]
    size = (context.terms.size(dims[1]),)
    rest = [dims[1:2] if shape == size else [context.new(each) for each in shape] for shape in shapes]
    context.give(dims, *rest)


def weight_norm(context: Context) -> None:
    """Each part of a weight along one dim has a norm of its own, which is given."""
    dims, norms = context.of("v"), context.of("g")
    place = context.argument("dim") or 0
    context.join([dims[place]], [norms[place]])
    context.give(dims, norms)


_BATCH = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
NORMS: dict[str, Rule] = {
    **dict.fromkeys((*_BATCH, "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm"), batch_norm),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), layer_norm),
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
}
