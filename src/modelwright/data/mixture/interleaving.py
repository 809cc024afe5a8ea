"""Interleaving: which source is at each place, by arithmetic, so that any window holds each in its share.

Sources are merged two by two, the lightest first, into a tree (Huffman, "A Method for the Construction of
Minimum-Redundancy Codes", 1952). Where weights ``a`` and ``b`` meet, the first n places hold floor(n a / (a + b)) of
the first, so any window of them is off by less than one sample. Beneath, a window of the whole is a window of each
branch, whose length is off by what the nodes above added: e = 1 + share x e above. When a node was merged of two, all
others were no lighter than either of them, so the node beside it is at least half as heavy and its share at most 2/3:
e stays below 3 at nodes and below 4 at sources. **In any window of n places each source is there n x share times, give
or take less than 4**, whatever the weights and however many sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

BOUND = 4
"""Samples that a window of any length is off by, less than."""

Places = NDArray[np.int64]


@dataclass(frozen=True)
class _Split:
    """Where two branches meet, under numbers of nodes; ``weight`` of ``total`` is the light one's."""

    node: int
    light: int
    heavy: int
    weight: int
    total: int

    def divided(self, places: Places) -> tuple[NDArray[np.bool_], Places]:
        """Whether each place is the light branch's, and its number within its branch."""
        periods, inside = np.divmod(places, self.total)
        before = inside * self.weight // self.total
        light = (inside + 1) * self.weight // self.total > before
        before += periods * self.weight
        return light, np.where(light, before, places - before)


class Interleaving:
    """Places 0, 1, ... shared among sources.

    Args:
        weights: whole numbers, at least one of them more than 0; their sum is at most 2**31.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        heap = [(weight, source) for source, weight in enumerate(weights) if weight > 0]
        heapify(heap)
        self._sources = len(weights)
        splits: list[_Split] = []
        while len(heap) > 1:
            (light_weight, light), (heavy_weight, heavy) = heappop(heap), heappop(heap)
            node, total = len(weights) + len(splits), light_weight + heavy_weight
            splits.append(_Split(node, light, heavy, light_weight, total))
            heappush(heap, (total, node))
        self._root = heap[0][1]
        self._splits = splits[::-1]  # from the root down

    def locate(self, places: Places) -> tuple[Places, Places]:
        """The source at each of ``places [places]``, and how many of its samples came before."""
        nodes = np.full(places.shape, self._root, dtype=np.int64)
        ranks = places.copy()
        for split in self._splits:
            here = np.flatnonzero(nodes == split.node)
            light, ranks[here] = split.divided(ranks[here])
            nodes[here] = np.where(light, split.light, split.heavy)
        return nodes, ranks

    def counts(self, length: int) -> list[int]:
        """How many of the first ``length`` places are each source's."""
        reached = {self._root: length}
        for split in self._splits:
            whole = reached.pop(split.node)
            reached[split.light] = whole * split.weight // split.total
            reached[split.heavy] = whole - reached[split.light]
        return [reached.get(source, 0) for source in range(self._sources)]
