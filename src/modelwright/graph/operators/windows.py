"""Pooling and resizing: the first two dims stay, the others mix neighbours."""

from __future__ import annotations

from modelwright.graph.operators.context import Context
from modelwright.graph.operators.rule import Rule

_NEIGHBOURS = "neighbours are mixed"


def pool(context: Context) -> None:
    """``[n, c, ...]`` or ``[c, ...]``."""
    dims = context.dims[context.operator.inputs[0]]
    spatial = next(each for each in (3, 2, 1) if f"{each}d" in context.operator.name)
    context.freeze(dims[-spatial:], _NEIGHBOURS)
    shape = context.shape()[-spatial:]
    pixels = [context.new(size, _NEIGHBOURS) for size in shape]
    context.give(*([*dims[:-spatial], *pixels] for _ in context.operator.outputs))


_POOLS = (
    "avg_pool{}d",
    "max_pool{}d_with_indices",
    "_adaptive_avg_pool{}d",
    "adaptive_avg_pool{}d",
    "adaptive_max_pool{}d",
)
_SIZES = ("upsample_nearest{}d", "_upsample_nearest_exact{}d", "reflection_pad{}d", "replication_pad{}d", "avg_pool{}d")
_OTHERS = (
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "upsample_trilinear3d",
)
WINDOWS: dict[str, Rule] = {
    **{name.format(size): pool for name in (*_POOLS, *_SIZES) for size in (1, 2, 3)},
    **dict.fromkeys(_OTHERS, pool),
}
