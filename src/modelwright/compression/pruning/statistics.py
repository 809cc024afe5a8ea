"""Units go whose statistic lies below a threshold: of activations, of gradients, or of what layers would lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.reading import Reader, means, readers, summed
from modelwright.reforms.matrices import matrix_of
from modelwright.reforms.moments import gather

if TYPE_CHECKING:
    from modelwright.compression.structure import UnitClass, Units


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A plain statistic of the forward or backward pass, and a threshold under which units may go at all.

    Needs ``batches``; gradients need an ``objective``.

    Attributes:
        of: ``activations``: mean absolute value of what layers read of the unit; ``gradients``: mean over batches of
            the sum of absolute gradients of all its weights; ``outputs``: squared error of the outputs of the layers
            that read it, summed over outputs, mean over positions, were it zero.
        threshold: as a share of the class's mean; units above it stay whatever ``keep`` says. ``None``: ``keep`` says.
    """

    of: Literal["activations", "gradients", "outputs"] = "activations"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.of not in ("activations", "gradients", "outputs"):
            raise ModelwrightError(f"there is no statistic of {self.of!r}", remedy="activations, gradients or outputs")
        if self.threshold is not None and not self.threshold > 0:
            raise ModelwrightError(f"nothing lies below the threshold {self.threshold}", remedy="write one such as 0.1")

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        return _STATISTICS[self.of](model, units, evidence)

    def needed(
        self, model: nn.Module, units: Units, scores: Mapping[int, Tensor], evidence: Evidence
    ) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Spares`."""
        if self.threshold is None:
            return {}
        return {number: each > self.threshold * each.mean() for number, each in scores.items()}


def _activations(model: nn.Module, units: Units, evidence: Evidence) -> dict[int, Tensor]:
    found = readers(model, units.classes)
    seen = means(model, [one for each in found.values() for one in each], evidence, torch.abs)
    scores = {}
    for each in units.classes:
        read = [one for one in found[each.number] if one.name in seen]
        parts = [one.place.by_unit(one.spread(seen[one.name])).mean(1) for one in read]
        scores[each.number] = torch.stack(parts).mean(0) if parts else _weights(model, each)
    return scores


def _gradients(model: nn.Module, units: Units, evidence: Evidence) -> dict[int, Tensor]:
    sums = {each.number: torch.zeros(each.size, dtype=torch.float64) for each in units.classes}
    count = 0
    for gradients in evidence.gradients(model):
        absolute = {name: each.abs() for name, each in gradients.items()}
        for each in units.classes:
            sums[each.number] += summed(each, absolute, reading=False)
        count += 1
    return {number: each / count for number, each in sums.items()}


def _outputs(model: nn.Module, units: Units, evidence: Evidence) -> dict[int, Tensor]:
    found = readers(model, units.classes)
    names = dict.fromkeys(one.name for each in found.values() for one in each)
    seen = gather(model, names, evidence.data(), forward=evidence.run)
    scores = {}
    for each in units.classes:
        parts = [_lost(one, seen[one.name].second.cpu()) for one in found[each.number] if one.name in seen]
        scores[each.number] = torch.stack(parts).sum(0) if parts else _weights(model, each)
    return scores


def _lost(reader: Reader, second: Tensor) -> Tensor:
    """The mean squared error of a layer's outputs without each unit, which is ``trace of W E[x x^T] W^T``."""
    columns, total = reader.columns(), torch.zeros(len(reader.place.places), dtype=torch.float64)
    for matrix, moment in zip(matrix_of(reader.module).cpu(), second, strict=True):
        own = matrix[:, columns].movedim(1, 0)
        blocks = moment[columns[:, :, None], columns[:, None, :]]
        total += ((own @ blocks) * own).sum((1, 2))
    return total


def _weights(model: nn.Module, found: UnitClass) -> Tensor:
    return summed(found, {name: each.detach().abs() for name, each in model.named_parameters()})


_STATISTICS = {"activations": _activations, "gradients": _gradients, "outputs": _outputs}
