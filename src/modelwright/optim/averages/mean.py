"""The mean of the weights in the last part of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from modelwright.optim.averages.average import RunningAverage, check_every
from modelwright.optim.schedules.shape import check_amounts


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): every weight counts alike.

    Best with a learning rate that stays up in that part. Batch norms keep the statistics of the trained weights.

    Attributes:
        start: steps before the first that counts, or, below 1, their fraction of all steps.
        every: steps between two updates of the mean.
    """

    start: float = 0.75
    every: int = 1

    def __post_init__(self) -> None:
        check_amounts("mean", start=self.start)
        check_every("mean", self.every)

    def build(self, tensors: Mapping[str, Tensor]) -> RunningAverage:
        """The mean of one run; ``tensors`` are the live ones, ``nn.Parameter`` and buffers, by name."""
        return RunningAverage(tensors, share=lambda number: 1 / (number + 1), start=self.start, every=self.every)
