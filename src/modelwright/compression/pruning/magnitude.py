"""Units go whose weights are smallest.

Han et al. 2015 (arXiv:1506.02626) for single weights; Li et al. 2017 (arXiv:1608.08710) for whole filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from modelwright.compression.pruning import Evidence
    from modelwright.compression.structure import UnitClass, Units


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """The norm of all weights that go with a unit, in all the parameters where it lies.

    Attributes:
        norm: 2: the root of the sum of squares; 1: the sum of absolute values.
    """

    norm: Literal[1, 2] = 2

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        tensors = dict(model.named_parameters(remove_duplicate=False))
        return {each.number: self._scores(each, tensors) for each in units.classes}

    def _scores(self, found: UnitClass, tensors: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(found.size, dtype=torch.float64)
        for place in found.parameters:
            numbers = place.by_unit(tensors[place.tensor].detach()).double().cpu()
            total += numbers.abs().pow(self.norm).sum(1)
        return total.pow(1 / self.norm)
