"""Units go whose removal the gradient says would change the loss least.

Molchanov et al. 2019 (arXiv:1906.10771), with a gate on each unit, averaged over batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.reading import summed

if TYPE_CHECKING:
    from modelwright.compression.structure import Units


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """The mean over batches of ``(d loss / d gate)^2``, for a gate of 1 on what the unit gives to those that read it.

    The gradient of the gate is the sum of ``weight * gradient`` over the weights that read the unit. Needs ``batches``
    and an ``objective``.
    """

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        sums = {each.number: torch.zeros(each.size, dtype=torch.float64) for each in units.classes}
        count = 0
        named = dict(model.named_parameters(remove_duplicate=False))
        for gradients in evidence.gradients(model):
            products = {name: named[name].detach() * each for name, each in gradients.items()}
            for each in units.classes:
                sums[each.number] += summed(each, products).square()
            count += 1
        return {number: each / count for number, each in sums.items()}
