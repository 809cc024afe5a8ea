"""The base of metrics that are a function of two sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError


class Ratio:
    """A total over a count, both summed over everything seen: the total in float64, the count in int64.

    The sums lie where the outputs lie and are read in :meth:`compute` only. A subclass adds to them in
    ``update``.
    """

    better: ClassVar[Literal["lower", "higher"]] = "lower"

    def __init__(self) -> None:
        self._total = torch.zeros((), dtype=torch.float64)
        self._count = torch.zeros((), dtype=torch.int64)

    def merge(self, other: Self) -> None:
        """Take in what ``other`` saw."""
        self._add(other._total, other._count)

    def compute(self) -> float:
        """Total over count.

        Raises:
            ModelwrightError: nothing was counted.
        """
        count = int(self._count)
        if count == 0:
            raise ModelwrightError(
                f"{type(self).__name__} has seen nothing to count",
                remedy="check that the data holds valid targets (-100 marks those to ignore)",
            )
        return float(self._total) / count

    def state(self) -> dict[str, Tensor]:
        """The two sums, 0-dim."""
        return {"total": self._total.clone(), "count": self._count.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the two sums."""
        self._total = state["total"].to(torch.float64, copy=True)
        self._count = state["count"].to(torch.int64, copy=True)

    def _add(self, total: Tensor, count: Tensor) -> None:
        self._total = self._total.to(total.device, non_blocking=True) + total.detach()
        self._count = self._count.to(count.device, non_blocking=True) + count
