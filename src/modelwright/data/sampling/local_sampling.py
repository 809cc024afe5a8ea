"""Local sampling: a fixed number of parts of the data, each with its own slot in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import Order, counted
from modelwright.data.sampling.checks import check

if TYPE_CHECKING:
    from modelwright.data import Dataset, Ordering, Positions


@dataclass(frozen=True, kw_only=True)
class Local:
    """Each ``parts``-th of a step draws from its own part of the data, whatever the number of workers.

    A part is a contiguous range of samples; parts differ in length by at most one. Each goes through its samples in an
    order of its own, epoch after epoch of its own length. Workers take slices of a step, so where their number divides
    ``parts``, each reads only its own parts of the data.

    Attributes:
        parts: of the data, and of every step; divides ``batch``.
        overlap: fraction of a part's mini-batch that its next one repeats: a window over the part's order that moves by
            ``round(batch / parts * (1 - overlap))`` samples per step, so a pass takes more steps.
    """

    parts: int
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ModelwrightError(
                f"local: data cannot be cut in {self.parts} parts", where="sampling.parts", remedy="parts: 1 or more"
            )
        if not 0 <= self.overlap < 1:
            raise ModelwrightError(
                f"local: mini-batches cannot overlap by {self.overlap}",
                where="sampling.overlap",
                remedy="a fraction from 0 to below 1",
            )

    def positions(self, dataset: Dataset, *, batch: int) -> int:
        """Positions of one step: ``batch``."""
        return batch

    def order(self, dataset: Dataset, *, batch: int, seed: int) -> Ordering:
        """Which sample of ``dataset`` is at each position.

        Raises:
            ModelwrightError: the parts do not fit the data or the batch, or the data brings an order of its own.
        """
        check("local", dataset, batch)
        if len(dataset) < self.parts:
            raise ModelwrightError(
                f"{len(dataset)} samples cannot be cut in {self.parts} parts",
                where="sampling.parts",
                remedy=f"parts: {len(dataset)} or less",
            )
        share = self._share(batch)
        return _Parts(len(dataset), self.parts, share, self._stride(share), seed)

    def _share(self, batch: int) -> int:
        share, rest = divmod(batch, self.parts)
        if rest:
            raise ModelwrightError(
                f"a batch of {batch} samples cannot be shared by {self.parts} parts",
                where="sampling.parts",
                remedy=f"batch: {batch - rest or self.parts} or {batch - rest + self.parts}, "
                "or parts that divide the batch",
            )
        return share

    def _stride(self, share: int) -> int:
        stride = round(share * (1 - self.overlap))
        if self.overlap and not 0 < stride < share:
            raise ModelwrightError(
                f"mini-batches of {share} samples (batch / parts) cannot overlap by {self.overlap}: they would move by "
                f"{stride} samples",
                where="sampling.overlap",
                remedy=f"an overlap from {1 / share:.3g} to {1 - 1 / share:.3g}" if share > 1 else "a larger batch",
            )
        return stride


class _Parts:
    """The first ``_longer`` parts hold one sample more than the others."""

    def __init__(self, length: int, parts: int, share: int, stride: int, seed: int) -> None:
        self._parts, self._share, self._stride = parts, share, stride
        self._least, self._longer = divmod(length, parts)
        self._orders = [Order(self._least + more, seed) for more in ((0, 1) if self._longer else (0,))]

    def __call__(self, positions: Positions) -> NDArray[np.int64]:
        steps, inside = np.divmod(counted(positions), self._parts * self._share)
        parts, offsets = np.divmod(inside, self._share)
        begins = parts * self._least + np.minimum(parts, self._longer)
        indices: NDArray[np.int64] = begins + self._within(parts, steps * self._stride + offsets)
        return indices

    def _within(self, parts: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in ``parts`` of the ``drawn``-th sample of each."""
        places = np.empty_like(drawn)
        for more, order in enumerate(self._orders):
            chosen = (parts < self._longer) == more
            epochs, inside = np.divmod(drawn[chosen], order.length)
            places[chosen] = order.at(epochs * self._parts + parts[chosen], inside)
        return places
