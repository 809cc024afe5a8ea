"""Global sampling: every step draws from all of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelwright.data.order import Order
from modelwright.data.sampling.checks import own_order

if TYPE_CHECKING:
    from modelwright.data import Dataset, Ordering


@dataclass(frozen=True, kw_only=True)
class Global:
    """All samples once in each epoch, in an order of its own; or the data's own order, as a mixture brings one."""

    def positions(self, dataset: Dataset, *, batch: int) -> int:
        """Positions of one step: ``batch``."""
        return batch

    def order(self, dataset: Dataset, *, batch: int, seed: int) -> Ordering:
        """Which sample of ``dataset`` is at each position.

        Raises:
            ModelwrightError: there are no samples.
        """
        own = own_order(dataset)
        return Order(len(dataset), seed) if own is None else own(seed)
