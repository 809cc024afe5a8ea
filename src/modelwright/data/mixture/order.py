"""The order of a mixture: an order of each source, dealt out by a schedule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data import Dataset, Ordering
from modelwright.data.mixture.schedule import Schedule
from modelwright.data.order import HOLE, Order, counted
from modelwright.data.sampling.checks import own_order


class MixtureOrder:
    """The sample at each position of a mixture; pure, and without memory but for the sources' own.

    The sample number r of a source, counted over the whole mixture, is at position r of the source's own order. So each
    source has epochs of its own, and neither other sources nor weights disturb them.

    Args:
        schedule: which source is at each position.
        orders: name -> order of the source.
        begins: name -> index of its first sample in the mixture's data set.
    """

    def __init__(self, schedule: Schedule, orders: Mapping[str, Ordering], begins: Mapping[str, int]) -> None:
        self._schedule = schedule
        self._orders = [orders[name] for name in schedule.names]
        self._begins = [begins[name] for name in schedule.names]

    def __call__(self, positions: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        """Indices of the samples at ``positions``, int64, of the same shape; -1 where a source's order has a hole."""
        asked = counted(positions)
        sources, ranks = self._schedule.locate(asked.ravel())
        indices = np.empty_like(sources)
        for source in np.unique(sources):
            here = np.flatnonzero(sources == source)
            own = self._orders[source](ranks[here])
            indices[here] = np.where(own < 0, HOLE, own + self._begins[source])
        return indices.reshape(asked.shape)


def order_of(dataset: Dataset, name: str, seed: int) -> Ordering:
    """The order of a source within a mixture; it follows from the seed, the source's name and its length alone."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    own_seed = int.from_bytes(digest[:8], "big")
    own = own_order(dataset)  # as streamed shards bring one, and a mixture within a mixture
    return Order(len(dataset), own_seed) if own is None else own(own_seed)
