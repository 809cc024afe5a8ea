"""The order of streamed shards: shards permuted, then the windows of a few shards at a time.

A permutation of all windows would touch every shard within the first few steps, and a stream would download all of
them before it learns anything. Here each epoch permutes the shards, takes them in groups, and permutes the windows
inside each group; so only one group has to be at hand. Both permutations are keyed (:mod:`modelwright.data.order`),
and the whole is arithmetic over the table of the shards' sizes: any position is found at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import Order, counted

_KEPT = 3  # epochs whose tables are remembered
_INSIDE = 0x5DEECE66D  # added to the seed, so that windows are not permuted by the key of the shards


@dataclass(frozen=True)
class _Epoch:
    """One epoch's tables. ``shards`` in their turn; ``begins [shards + 1]`` and ``groups [groups + 1]``: positions."""

    shards: NDArray[np.int64]
    begins: NDArray[np.int64]
    groups: NDArray[np.int64]


class ShardOrder:
    """The sample at each position, epoch after epoch; samples count through the shards as they are listed.

    It is no global shuffle: samples of shards in different groups of one epoch never mix.

    Args:
        counts: samples in each shard.
        seed: any integer.
        together: shards of one group.

    Raises:
        ModelwrightError: there are no samples, or ``together`` is below 1.
    """

    def __init__(self, counts: Sequence[int] | NDArray[Any], *, seed: int, together: int) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self.length = int(self._counts.sum())
        if self.length == 0 or together < 1:
            raise ModelwrightError(f"cannot order {self.length} samples in groups of {together} shards")
        self._seed, self._together = seed, together
        self._begins = np.cumsum(self._counts) - self._counts
        self._permutation = Order(len(self._counts), seed)
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._newest = (0, 0)

    def __call__(self, positions: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        """Indices of the samples at ``positions``, int64, of the same shape."""
        asked = counted(positions)
        epochs, inside = np.divmod(asked.ravel(), self.length)
        indices = np.empty(len(inside), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = self._within(epoch, inside[here])
        return indices.reshape(asked.shape)

    def following(self) -> list[int]:
        """Numbers of the shards of the group after the one that was asked for last: those to be fetched ahead."""
        epoch, group = self._newest
        tables = self._tables(epoch)
        if group + 2 >= len(tables.groups):
            epoch, group, tables = epoch + 1, -1, self._tables(epoch + 1)
        begin = (group + 1) * self._together
        return [int(shard) for shard in tables.shards[begin : begin + self._together]]

    def _within(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        tables = self._tables(epoch)
        groups = np.searchsorted(tables.groups, places, side="right") - 1
        permuted = np.empty(len(places), dtype=np.int64)
        for group in np.unique(groups).tolist():
            here, begin = groups == group, int(tables.groups[group])
            length = int(tables.groups[group + 1]) - begin
            own = (epoch * (len(tables.groups) - 1) + group) * length  # each group of each epoch has a key of its own
            permuted[here] = begin + Order(length, self._seed + _INSIDE)(own + places[here] - begin)
            self._newest = (epoch, group)
        turns = np.searchsorted(tables.begins, permuted, side="right") - 1
        return np.asarray(self._begins[tables.shards[turns]] + permuted - tables.begins[turns], dtype=np.int64)

    def _tables(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._table(epoch)
            while len(self._epochs) > _KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _table(self, epoch: int) -> _Epoch:
        total = len(self._counts)
        shards = self._permutation(epoch * total + np.arange(total))
        begins = np.concatenate([[0], np.cumsum(self._counts[shards])])
        groups = np.append(begins[: -1 : self._together], self.length)
        return _Epoch(shards, begins, groups)
