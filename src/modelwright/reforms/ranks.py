"""Which rank each layer gets: by energy, by error, or by a budget shared among all layers."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import count_text


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a layer may become.

    Attributes:
        name: of the layer.
        parameters: weights as it is.
        whole: weights as one matrix; the same, but where it is factored already.
        per_rank: weights of a factored layer for each rank.
        losses: relative square error of the outputs that ranks from 0 to the largest leave, decreasing to 0.
        multiple: of what number ranks are multiples.
    """

    name: str
    parameters: int
    whole: int
    per_rank: int
    losses: np.ndarray[tuple[int], np.dtype[np.float64]]
    multiple: int = 1

    @property
    def full(self) -> int:
        """The least number of weights without loss that is known from the start."""
        return min(self.parameters, self.whole)

    def ranks(self) -> range:
        """Those that make the layer smaller than it can be without loss."""
        largest = min(len(self.losses) - 1, (self.full - 1) // self.per_rank)
        return range(self.multiple, largest + 1, self.multiple)

    def rounded(self, rank: int) -> int | None:
        """The least rank on offer that is not below ``rank``; ``None``: none is, the layer stays whole."""
        up = -(-max(rank, 1) // self.multiple) * self.multiple
        return up if up in self.ranks() else None

    def size(self, rank: int | None) -> int:
        """Weights of the layer at a rank, or whole."""
        return self.full if rank is None else rank * self.per_rank

    def loss(self, rank: int | None) -> float:
        """What a rank leaves, or nothing."""
        return 0.0 if rank is None else float(self.losses[rank])


Ranks = dict[str, int | None]


def by_rank(layers: Iterable[Options], ranks: Mapping[str, int]) -> Ranks:
    """The ranks that are given; ``None`` where a layer gains nothing by it."""
    return {each.name: each.rounded(ranks[each.name]) for each in layers}


def by_error(layers: Iterable[Options], error: float) -> Ranks:
    """The least ranks that leave a relative error of the outputs, as a norm, of at most ``error`` each."""
    return {each.name: each.rounded(int(np.argmax(each.losses <= error**2))) for each in layers}


def by_energy(layers: Iterable[Options], energy: float) -> Ranks:
    """The least ranks that keep a share ``energy`` of the sum of squares each."""
    return {each.name: each.rounded(int(np.argmax(each.losses <= 1 - energy))) for each in layers}


def by_budget(layers: Iterable[Options], parameters: int) -> Ranks:
    """Ranks of all layers together that use at most so many weights, and leave little error in sum.

    Each layer begins as small as it may be; then the step that gains most per weight comes first, of those for which
    there is room. As long as all fit, this is the best for the weights used so far; what is lost at the end is less
    than one step (Dantzig 1957).

    Raises:
        ModelwrightError: not even the least ranks fit.
    """
    known = {each.name: each for each in layers}
    chosen = {name: _least(each) for name, each in known.items()}
    room = parameters - sum(each.size(chosen[name]) for name, each in known.items())
    if room < 0:
        raise ModelwrightError(
            f"the layers that may be factored cannot have less than {count_text(parameters - room)} weights, and the "
            f"budget leaves {count_text(parameters)}",
            where="budget",
            remedy="give a larger budget, or let more layers be factored",
        )
    steps = [step for each in known.values() if (step := _step(each, chosen[each.name], room))]
    heapq.heapify(steps)
    while steps:
        _, name, rank = heapq.heappop(steps)
        added = known[name].size(rank or None) - known[name].size(chosen[name])
        if added <= room:
            chosen[name], room = rank or None, room - added
        if step := _step(known[name], chosen[name], room):
            heapq.heappush(steps, step)
    return chosen


def _least(layer: Options) -> int | None:
    return min(layer.ranks(), default=None)


def _step(layer: Options, rank: int | None, room: int) -> tuple[float, str, int] | None:
    """The step of a layer that gains most per weight, of those for which there is room: slope, name, new rank.

    The rank of a whole layer is 0 here. Room only shrinks, so that a step that still fits is still the best.
    """
    if rank is None:
        return None
    larger = np.arange(rank + layer.multiple, layer.ranks().stop, layer.multiple)
    added = np.append((larger - rank) * layer.per_rank, layer.full - layer.size(rank))
    slopes = (np.append(layer.losses[larger], 0.0) - layer.losses[rank]) / added
    slopes[added > room] = np.inf
    best = len(slopes) - 1 - int(np.argmin(slopes[::-1]))  # the farthest of equal ones
    if slopes[best] == np.inf:
        return None
    return float(slopes[best]), layer.name, int(larger[best]) if best < len(larger) else 0
