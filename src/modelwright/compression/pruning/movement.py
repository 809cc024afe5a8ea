"""Units go whose weights training moves towards zero.

Sanh et al. 2020 (arXiv:2005.07683), for whole units: the score is ``-sum over steps of weight * gradient``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.reading import summed

if TYPE_CHECKING:
    from modelwright.compression.structure import Units


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How a unit's weights move away from zero while a copy is trained by plain gradient descent, one step a batch.

    The lowest score of a class is taken from all, as scores are not negative. Needs ``batches`` and an ``objective``.

    Attributes:
        learning_rate: of each step.
    """

    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ModelwrightError(f"{self.learning_rate} is no learning rate", remedy="write one such as 0.01")

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        trained = copy.deepcopy(model)
        named = dict(trained.named_parameters(remove_duplicate=False))
        sums = {each.number: torch.zeros(each.size, dtype=torch.float64) for each in units.classes}
        for gradients in evidence.gradients(trained):
            products = {name: named[name].detach() * each for name, each in gradients.items()}
            for each in units.classes:
                sums[each.number] -= summed(each, products, reading=False)
            self._step({id(named[name]): (named[name], each) for name, each in gradients.items()})
        return {number: each - each.min() for number, each in sums.items()}

    def _step(self, found: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        with torch.no_grad():
            for parameter, gradient in found.values():
                parameter.sub_(gradient, alpha=self.learning_rate)
