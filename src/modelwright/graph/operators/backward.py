"""Operators of the backward pass that are none of the forward pass too: gradients have the dims of what they are of."""

from __future__ import annotations

from modelwright.graph.operators.context import Context
from modelwright.graph.operators.rule import Rule


def like(*names: str) -> Rule:
    """The outputs are gradients of these arguments; those that nobody asked for are missing."""

    def rule(context: Context) -> None:
        candidates = [dims for name in names if (dims := _argument(context, name)) is not None]
        outputs = []
        for output in range(len(context.operator.outputs)):
            shape = context.shape(output)
            fitting = [at for at, dims in enumerate(candidates) if tuple(map(context.terms.size, dims)) == shape]
            outputs.append(candidates[fitting[0]] if fitting else [context.new(size) for size in shape])
            candidates = candidates[fitting[0] + 1 :] if fitting else candidates
        context.give(*outputs)

    return rule


def _argument(context: Context, name: str) -> list[int] | None:
    """``weight[0]`` is the first dim of ``weight`` alone."""
    if name.endswith("[0]"):
        dims = context.optional(name[:-3])
        return None if dims is None else dims[:1]
    return context.optional(name)


def embedding(context: Context) -> None:
    """A table with one row for each number."""
    gradient = context.of("grad_output")
    context.give([context.new(context.shape()[0]), gradient[-1]])


def part_of(context: Context) -> None:
    """A gradient of a part, laid into zeros."""
    rows, gradient = context.shape(), context.of("grad_output")
    place = context.argument("dim") % len(rows)
    kept = [*gradient[:place], *gradient[place + (len(gradient) == len(rows)) :]]
    context.give([*kept[:place], context.new(rows[place]), *kept[place:]])


def resized(context: Context) -> None:
    """The pixels are others; the first two dims stay."""
    context.give([*context.of("grad_output")[:2], *(context.new(size) for size in context.shape()[2:])])


_RESIZED = ("upsample_nearest{}d_backward", "upsample_bilinear{}d_backward", "reflection_pad{}d_backward")
BACKWARD: dict[str, Rule] = {
    **dict.fromkeys(("native_layer_norm_backward", "native_group_norm_backward"), like("input", "weight", "weight")),
    **dict.fromkeys(("native_batch_norm_backward", "_fused_rms_norm_backward"), like("input", "weight", "weight")),
    **dict.fromkeys(
        ("convolution_backward", "convolution_backward_overrideable"), like("input", "weight", "weight[0]")
    ),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), like("output")),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward", "avg_pool2d_backward"), like("self")),
    **dict.fromkeys(("max_pool2d_with_indices_backward", "_adaptive_avg_pool2d_backward"), like("self")),
    **dict.fromkeys(("slice_backward", "select_backward"), part_of),
    **dict.fromkeys((name.format(size) for name in _RESIZED for size in (1, 2, 3)), resized),
    "scaled_dot_product_attention_backward": like("query", "key", "value", "attn_mask"),
    "embedding_dense_backward": embedding,
}
