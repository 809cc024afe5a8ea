"""How many samples the steps have, where some positions hold none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelwright.data.batches import there
from modelwright.data.reading.share import ORDERED

if TYPE_CHECKING:
    from modelwright.data import Dataset, Ordering


class StepSizes:
    """Samples of a step over all ranks; holes are left out.

    Args:
        dataset: where samples come from.
        order: which sample is at which position; -1 where there is none.
        batch: positions of one step.
    """

    def __init__(self, dataset: Dataset, order: Ordering, batch: int) -> None:
        self._dataset, self._order, self._batch = dataset, order, batch
        self._begin = 0
        self._sizes: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        """Samples of the step whose first position this is."""
        place, rest = divmod(position - self._begin, self._batch)
        if rest or not 0 <= place < len(self._sizes):
            self._begin, self._sizes, place = position, self._count(position), 0
        return int(self._sizes[place])

    def _count(self, position: int) -> NDArray[np.int64]:
        steps = max(1, ORDERED // self._batch)
        indices = np.asarray(self._order(np.arange(position, position + steps * self._batch)))
        sizes: NDArray[np.int64] = there(self._dataset, indices).reshape(steps, self._batch).sum(axis=1, dtype=np.int64)
        return sizes
