"""The axes of a mesh of ranks, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelwright.base.errors import ModelwrightError, nearest

AXES = ("pipeline", "replicate", "shard", "expert", "context", "tensor")
"""The axes that a layout may have, outermost first: neighbours along the last ones exchange most."""
DATA_AXES = ("replicate", "shard", "expert")
"""Those along which ranks get different samples; along the others they share them."""


def ordered(layout: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the axes, outermost first.

    Raises:
        ModelwrightError: there is no such axis, or a size is no positive whole number.
    """
    for axis, length in layout.items():
        if axis not in AXES:
            remedy = nearest(axis, AXES) or f"axes are {', '.join(AXES)}"
            raise ModelwrightError(f"a layout has no axis '{axis}'", where="plan.layout", remedy=remedy)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ModelwrightError(
                f"'{length}' is no number of ranks along the axis {axis}",
                where=f"plan.layout.{axis}",
                remedy="give a whole number, 1 or more",
            )
    return {axis: layout[axis] for axis in AXES if axis in layout}


def data_ranks(layout: Mapping[str, int]) -> int:
    """How many ranks share out the samples of a step."""
    return math.prod(size for axis, size in layout.items() if axis in DATA_AXES)


def product_text(layout: Mapping[str, int]) -> str:
    """The layout in words: ``pipeline 2 x tensor 2``."""
    return " x ".join(f"{axis} {size}" for axis, size in layout.items())


def fitted(micro_batch: int, layout: Mapping[str, int], batch: int) -> int:
    """The largest micro-batch of at most so many samples that a worker can have.

    Args:
        micro_batch: samples, at most.
        layout: sizes of the axes.
        batch: samples of a step, over all workers.

    Returns:
        Samples: no more than a worker's share, and in a pipeline, where micro-batches are alike, a divisor of it.
    """
    share = -(-batch // data_ranks(layout))
    most = min(micro_batch, share)
    if layout.get("pipeline", 1) == 1:
        return most
    return next(size for size in range(most, 0, -1) if share % size == 0)


def resized(layout: Mapping[str, int], workers: int) -> dict[str, int]:
    """The layout for another number of workers: more or fewer replicas of the same.

    Raises:
        ModelwrightError: the workers do not make up whole replicas.
    """
    one = _of_one(layout)
    if workers < one or workers % one:
        product = product_text({axis: size for axis, size in layout.items() if axis != "replicate"})
        raise ModelwrightError(
            f"{workers} worker{'s make' if workers != 1 else ' makes'} up no whole number of replicas of {one} "
            f"({product})",
            where="plan.layout",
            remedy=f"give a multiple of {one}, or set another plan.layout",
        )
    return ordered({**layout, "replicate": workers // one})


def _of_one(layout: Mapping[str, int]) -> int:
    return math.prod(size for axis, size in layout.items() if axis != "replicate")
