"""How well a model keeps preferences."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.metrics.ratio import Ratio
from modelwright.objectives.preference import Rewards, counted_pairs


class PreferenceAccuracy(Ratio):
    """The share of pairs whose chosen answer has the higher reward; a tie counts half."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in the rewards that the objective ``preference`` gives."""
        margins, counted = _margins(outputs, "preference-accuracy"), counted_pairs(batch)
        right = (margins > 0).double() + (margins == 0).double() / 2
        self._add(right.masked_fill(~counted, 0).sum(), counted.sum())


class RewardMargin(Ratio):
    """The mean reward of the chosen answer minus that of the rejected one."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in the rewards that the objective ``preference`` gives."""
        margins, counted = _margins(outputs, "reward-margin"), counted_pairs(batch)
        self._add(margins.double().masked_fill(~counted, 0).sum(), counted.sum())


def _margins(outputs: Any, metric: str) -> Tensor:
    if not isinstance(outputs, Rewards):
        raise ModelwrightError(
            f"the metric {metric} needs the rewards of pairs of answers, not {type(outputs).__name__}",
            remedy="choose the objective 'preference', or another metric",
        )
    return outputs.margins
