"""What ways to draw samples ask of the data and of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelwright.base.errors import ModelwrightError

if TYPE_CHECKING:
    from modelwright.data import Dataset, Ordering


def own_order(dataset: Dataset) -> Callable[[int], Ordering] | None:
    """What makes the order that ``dataset`` brings with it from a seed, if it brings one."""
    own = getattr(dataset, "order", None)
    return own if callable(own) else None


def check(use: str, dataset: Dataset, batch: int) -> None:
    """Raise :class:`ModelwrightError` for a batch of no samples, and for data that brings an order of its own."""
    if batch < 1:
        raise ModelwrightError(f"a batch of {batch} samples draws nothing", where="batch")
    if own_order(dataset) is not None:
        raise ModelwrightError(
            f"{use} sampling would pass over the order that the data brings with it, such as a mixture's weights",
            where="sampling",
            remedy="sampling: global, or train on one source",
        )
