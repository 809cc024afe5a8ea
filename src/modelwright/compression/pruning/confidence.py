"""The weakest unit goes while the interval of what it costs says that it does not matter.

As the weakest leaf of a tree is cut (Breiman et al. 1984), with the interval of a paired t-test in the place of a fixed
cost: units go in the order of a first guess, together with all that went before them, and the loss on each batch is
compared with that of the whole model on the same batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.taylor import Taylor
from modelwright.models.modes import evaluating

if TYPE_CHECKING:
    from modelwright.compression.structure import UnitClass, Units


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Units go as long as the upper bound of the rise of the loss, with all of them gone, is at most ``tolerance``.

    Needs at least two ``batches`` and an ``objective``; it runs them once for each unit that is tried. Those that are
    not shown to be needless stay, whatever ``keep`` says. Entries of the residual stream, and classes of which equally
    many must go, are not tried and stay. The bound is of a search on these batches: for a promise, judge what comes out
    on data that the search did not see.

    Attributes:
        tolerance: by how much the mean loss may rise.
        level: of the one-sided interval.
    """

    tolerance: float = 0.0
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise ModelwrightError(f"{self.level} is no level of confidence", remedy="write one such as 0.95")
        if not self.tolerance >= 0:
            raise ModelwrightError(f"the tolerance {self.tolerance} is negative", remedy="write 0 or more")

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`: a first guess, by the gradient."""
        return Taylor().scores(model, units, evidence)

    def needed(
        self, model: nn.Module, units: Units, scores: Mapping[int, Tensor], evidence: Evidence
    ) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Spares`."""
        tried = _alone(units)
        needed = {each.number: torch.ones(each.size, dtype=torch.bool) for each in units.classes}
        whole = _losses(model, evidence)
        order = sorted(
            (float(score), each.number, unit) for each in tried for unit, score in enumerate(scores[each.number])
        )
        bound = 0.0
        with _restored(model, tried):
            for _, number, unit in order:
                if needed[number].sum() == 1:
                    continue
                _silence(model, units[number], unit)
                bound = self.bound([one - other for one, other in zip(_losses(model, evidence), whole, strict=True)])
                if not bound <= self.tolerance:
                    break
                needed[number][unit] = False
        gone = sum(int((~each).sum()) for each in needed.values())
        emit("pruning-confidence", f"{gone} of {len(order)} units may go; the next gives a bound of {bound:.3g}")
        return needed

    def bound(self, rises: Sequence[float]) -> float:
        """The upper end of the one-sided interval of their mean, by Student's t.

        Raises:
            ModelwrightError: there are fewer than two.
        """
        if len(rises) < 2:
            raise ModelwrightError("one batch has no spread", where="batches", remedy="give at least two batches")
        values = np.asarray(rises, dtype=np.float64)
        spread = float(values.std(ddof=1)) / math.sqrt(len(values))
        return float(values.mean()) + quantile(self.level, len(values) - 1) * spread


def quantile(level: float, freedom: int) -> float:
    """Of Student's t, for a level of at least 0.5.

    With ``t = root(freedom) * tan(angle)`` the density over angles is a power of the cosine.
    """
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        angles, weights = np.polynomial.legendre.leggauss(100)
        density = np.cos((angles + 1) * middle / 2) ** (freedom - 1)
        low, high = (middle, high) if factor * middle / 2 * (weights @ density) < level - 0.5 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _alone(units: Units) -> list[UnitClass]:
    """Classes that may lose any of their units without what else they touch having to follow."""
    shared = Counter(each.together for each in units.classes)
    return [each for each in units.classes if shared[each.together] == 1 and each.kind != "width"]


def _losses(model: nn.Module, evidence: Evidence) -> list[float]:
    with evaluating(model), torch.no_grad():
        return [float(evidence.loss(model, batch)) for batch in evidence.data()]


def _silence(model: nn.Module, found: UnitClass, unit: int) -> None:
    with torch.no_grad():
        for place in found.parameters:
            parameter = model.get_parameter(place.tensor)
            parameter.index_fill_(place.dim, torch.from_numpy(place.places[unit]).to(parameter.device), 0.0)


@contextmanager
def _restored(model: nn.Module, classes: Sequence[UnitClass]) -> Iterator[None]:
    """The parameters have their numbers again afterwards."""
    names = dict.fromkeys(place.tensor for each in classes for place in each.parameters)
    saved = {name: model.get_parameter(name).detach().clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, numbers in saved.items():
                model.get_parameter(name).copy_(numbers)
