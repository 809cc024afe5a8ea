"""Units go whose weights are small where what they carry is small: Wanda, for whole units.

Sun et al. 2023 (arXiv:2306.11695): ``|weight| * norm of what it is multiplied with``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.reading import means, readers, summed

if TYPE_CHECKING:
    from modelwright.compression.structure import Units


@dataclass(frozen=True, kw_only=True)
class Activation:
    """The root of the sum of ``(weight * root mean square of what it is multiplied with)^2`` over a unit's weights.

    Needs ``batches``. Where a unit is read by several layers, all count; convolutions are matrices over windows.
    """

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        found = readers(model, units.classes)
        squares = means(model, [one for each in found.values() for one in each], evidence, torch.square)
        tensors = {name: each.detach().double().square() for name, each in model.named_parameters()}
        scores = {}
        for each in units.classes:
            seen = [one for one in found[each.number] if one.name in squares]
            parts = [
                one.place.by_unit(tensors[one.place.tensor].cpu() * one.spread(squares[one.name])).sum(1)
                for one in seen
            ]
            scores[each.number] = (torch.stack(parts).sum(0) if parts else summed(each, tensors)).sqrt()
        return scores
