"""Models that take their time, so that a wish to stop meets them in the middle."""

from __future__ import annotations

import time

from tests.app.brought import Linear
from torch import Tensor


class SlowSteps(Linear):
    """Of each step the forward takes its time."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.5)
        return super().forward(inputs)


class SlowEvaluation(Linear):
    """Steps are quick; each micro-batch that is scored takes its time."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training and not inputs.is_meta:
            time.sleep(0.25)
        return super().forward(inputs)
