"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from modelwright.optim.averages.average import RunningAverage, check_every
from modelwright.optim.groups import check_fraction


@dataclass(frozen=True, kw_only=True)
class Ema:
    """``average = decay * average + (1 - decay) * weights`` (Polyak & Juditsky 1992; exponential as in Adam, section
    7.2, arXiv:1412.6980), from the initial weights on.

    Attributes:
        decay: share of the average that is kept each time, below 1.
        every: steps between two updates of the average.
        warmup: decay by ``(1 + n) / (10 + n)`` as long as that is less, where ``n`` counts the updates from 0, so
            that a short run forgets its beginning.
    """

    decay: float = 0.999
    every: int = 1
    warmup: bool = True

    def __post_init__(self) -> None:
        check_fraction("ema", decay=self.decay)
        check_every("ema", self.every)

    def build(self, tensors: Mapping[str, Tensor]) -> RunningAverage:
        """The average of one run; ``tensors`` are the live ones, ``nn.Parameter`` and buffers, by name."""
        average = RunningAverage(tensors, share=self._share, start=0, every=self.every)
        average.begin()
        return average

    def _share(self, number: int) -> float:
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        return 1 - decay
