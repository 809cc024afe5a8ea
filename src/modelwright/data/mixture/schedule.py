"""Schedule: weights of sources that change at given positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from modelwright.data.mixture.interleaving import Interleaving
from modelwright.data.mixture.weights import exact

Places = NDArray[np.int64]


class Schedule:
    """Which source is at each position, and how many of its samples came before; no memory, any position at once.

    It depends on names and weights, not on the order in which sources are named. A source of weight 0 takes no part, so
    one may be added, from a later position on, and nothing before is changed.

    Attributes:
        names: of the sources; :meth:`locate` gives numbers into them.

    Args:
        phases: first position -> weights by name, each of all sources; one begins at 0.

    Raises:
        ModelwrightError: weights are negative, all 0, or of too many digits.
    """

    def __init__(self, phases: Mapping[int, Mapping[str, float]]) -> None:
        starts = sorted(phases)
        self.names = tuple(sorted(phases[starts[0]]))
        self._starts = np.array(starts, dtype=np.int64)
        self._parts = [Interleaving(exact(phases[start], _where(start))) for start in starts]
        self._before = np.zeros((len(starts), len(self.names)), dtype=np.int64)  # samples of each source by then
        for number, part in enumerate(self._parts[:-1]):
            self._before[number + 1] = self._before[number] + part.counts(starts[number + 1] - starts[number])

    def locate(self, positions: Places) -> tuple[Places, Places]:
        """Numbers of the sources at ``positions [positions]``, and of their samples, counted from 0."""
        sources, ranks = np.empty_like(positions), np.empty_like(positions)
        phases = np.searchsorted(self._starts, positions, side="right") - 1
        for phase in np.unique(phases):
            here = np.flatnonzero(phases == phase)
            found, since = self._parts[phase].locate(positions[here] - self._starts[phase])
            sources[here], ranks[here] = found, since + self._before[phase, found]
        return sources, ranks

    def counts(self, position: int) -> dict[str, int]:
        """How many samples of each source come before a position."""
        phase = int(np.searchsorted(self._starts, position, side="right")) - 1
        since = self._parts[phase].counts(position - int(self._starts[phase]))
        return {
            name: int(before) + count
            for name, before, count in zip(self.names, self._before[phase], since, strict=True)
        }


def _where(start: int) -> str:
    return "phases" if start else "sources"
