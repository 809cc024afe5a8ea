"""Units go one by one, each time the one whose loss the others can make good for best; then they make good for it.

The optimal brain surgeon (Hassibi and Stork 1993) for each layer that reads the units, whose outputs it keeps in the
least squares: Frantar and Alistarh 2022 (arXiv:2208.11580), for whole units Kurtic et al. 2023 (arXiv:2302.04089). The
Hessian of a layer's squared error, which is also its Fisher information under Gaussian noise, is the second moment of
what it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.pruning.evidence import Evidence
from modelwright.compression.pruning.reading import Reader, readers, summed
from modelwright.reforms.matrices import is_transposed_linear, matrix_of
from modelwright.reforms.moments import Moments, gather

if TYPE_CHECKING:
    from modelwright.compression.structure import UnitClass, Units


@dataclass(frozen=True, kw_only=True)
class Surgeon:
    """The squared error that a unit's removal leaves in the layers that read it, after the others made good for it.

    Its ``mend`` gives the weights, and the bias, of those that stay the closed form of that: of all weights for what
    stays, those with the least squared error of the layer's outputs. Entries of the residual stream are scored and not
    mended, since norms change with them. Needs ``batches``; memory is ``8 * columns^2`` bytes a layer.

    Attributes:
        damping: added to the diagonal of the moments, as a share of its mean.
    """

    damping: float = 1e-4

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ModelwrightError(f"the damping {self.damping} is negative", remedy="write a share such as 0.0001")

    def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
        """See :class:`modelwright.compression.pruning.Criterion`."""
        found = readers(model, units.classes)
        moments = _moments(model, found.values(), evidence)
        weights = {name: each.detach().double().square() for name, each in model.named_parameters()}
        scores = {}
        for each in units.classes:
            seen = [
                _Layer(one, self._hessian(one, moments[one.name])) for one in found[each.number] if one.name in moments
            ]
            scores[each.number] = _in_turn(seen) if seen else summed(each, weights)
        return scores

    def mend(self, model: nn.Module, units: Units, keep: Mapping[int, list[int]], evidence: Evidence) -> None:
        """See :class:`modelwright.compression.pruning.Mends`."""
        classes = [units[number] for number in keep if units[number].kind != "width"]
        found = readers(model, classes)
        moments = _moments(model, found.values(), evidence)
        by_layer: dict[str, list[tuple[Reader, UnitClass]]] = defaultdict(list)
        for each in classes:
            for one in found[each.number]:
                by_layer[one.name].append((one, each))
        for name, pairs in by_layer.items():
            if name in moments:
                stay = torch.ones(moments[name].mean.shape[1], dtype=torch.bool)
                for one, each in pairs:
                    stay[_gone(one, keep[each.number], each.size)] = False
                self._mend(pairs[0][0], moments[name], stay)

    def _mend(self, reader: Reader, moments: Moments, stay: Tensor) -> None:
        module, matrix, hessian = reader.module, matrix_of(reader.module).cpu(), self._hessian(reader, moments)
        mended = torch.zeros_like(matrix)
        for group, (whole, second) in enumerate(zip(matrix, hessian, strict=True)):
            mended[group][:, stay] = torch.linalg.solve(second[stay][:, stay], (whole @ second[:, stay]).T).T
        with torch.no_grad():
            if module.bias is not None:
                module.bias += ((matrix - mended) @ moments.mean.cpu()[:, :, None]).flatten().to(module.bias)
            weight = mended[0].T if is_transposed_linear(module) else mended.reshape(module.weight.shape)
            module.weight.copy_(weight)

    def _hessian(self, reader: Reader, moments: Moments) -> Tensor:
        """``[groups, columns, columns]``; a bias makes good for means."""
        found = (moments.second if reader.module.bias is None else moments.covariance()).cpu().clone()
        diagonal = found.diagonal(dim1=1, dim2=2)
        diagonal += (self.damping * diagonal.mean(1, keepdim=True)).clamp(min=torch.finfo(found.dtype).tiny ** 0.5)
        return found


def _moments(model: nn.Module, found: Iterable[list[Reader]], evidence: Evidence) -> dict[str, Moments]:
    names = dict.fromkeys(one.name for each in found for one in each)
    return gather(model, names, evidence.data(), forward=evidence.run)


def _gone(reader: Reader, keep: list[int], size: int) -> Tensor:
    """The columns of units that go."""
    stays = torch.zeros(size, dtype=torch.bool)
    stays[keep] = True
    return reader.columns()[~stays].flatten()


class _Layer:
    """One layer while its units go one by one: its matrices, made good so far, and the inverse of the moments."""

    def __init__(self, reader: Reader, hessian: Tensor) -> None:
        self.columns = reader.columns()
        self.matrix = matrix_of(reader.module).cpu().clone()  # of float64 it is the weight itself
        self.inverse = torch.linalg.inv(hessian)

    def errors(self, left: Tensor) -> Tensor:
        """What the removal of each unit that is ``left`` would add: its weights, by the inverse's own block."""
        total = torch.zeros(len(left), dtype=torch.float64)
        columns = self.columns[left]
        for matrix, inverse in zip(self.matrix, self.inverse, strict=True):
            own = matrix[:, columns].movedim(1, 0).mT  # [left, count, outputs]
            total += (own * torch.linalg.solve(_blocks(inverse, columns), own)).sum((1, 2))
        return total

    def remove(self, unit: int) -> None:
        columns = self.columns[unit]
        for group, inverse in enumerate(self.inverse):
            share = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
            self.matrix[group] -= self.matrix[group][:, columns] @ share
            self.inverse[group] -= inverse[:, columns] @ share


def _blocks(inverse: Tensor, columns: Tensor) -> Tensor:
    return inverse[columns[:, :, None], columns[:, None, :]]


def _in_turn(layers: list[Any]) -> Tensor:
    """By unit the error that there was once it had gone; who goes later has no lower one."""
    size = len(layers[0].columns)
    scores, left, error = torch.zeros(size, dtype=torch.float64), torch.arange(size), 0.0
    while len(left):
        added = torch.stack([each.errors(left) for each in layers]).sum(0)
        place = int(added.argmin())
        unit = int(left[place])
        error += max(0.0, float(added[place]))
        scores[unit] = error
        for each in layers:
            each.remove(unit)
        left = left[left != unit]
    return scores
