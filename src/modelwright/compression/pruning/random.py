"""Units that go by lot: what every other criterion must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

    from modelwright.compression.pruning import Evidence
    from modelwright.compression.structure import Units


@dataclass(frozen=True, kw_only=True)
class Random:
    """Each unit is as likely to go as any other of its class."""

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        generator = torch.Generator().manual_seed(evidence.seed)
        return {each.number: torch.rand(each.size, generator=generator, dtype=torch.float64) for each in units.classes}
