"""Columns one after the other, each error made up for by the columns that are still open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count
from modelwright.compression.quantize.encoding import Integers, Scales, decode, encode, fit


@dataclass(frozen=True, kw_only=True)
class GPTQ:
    """Rounds so that what the layer gives on the examples changes little, where :class:`Nearest` looks at weights only.

    Source: Frantar et al. 2022, arXiv:2210.17323. All layers are seen with the inputs that they have in the model
    before anything is rounded. What no example moves is rounded to the nearest.

    Attributes:
        damping: added to the diagonal of the second moment, as a share of its mean: more trusts the examples less.
        block: columns that are worked on before the others are told.
        by_size: begin with the columns of the largest inputs; scales of groups are then of the weight as it was.
    """

    damping: float = 0.01
    block: Count = 128
    by_size: bool = False

    reads = True

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ModelwrightError(f"damping is above 0, not {self.damping}", where="damping")
        if self.block < 1:
            raise ModelwrightError(f"a block has at least 1 column, not {self.block}", where="block")

    def round(
        self, matrix: Tensor, encoding: Integers, second: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Scales]:
        """See :class:`~modelwright.compression.quantize.rounding.Rounding`."""
        scales = fit(matrix, encoding, dtype)
        if second is None:
            return encode(matrix, scales, encoding), scales
        rows = len(matrix) // len(second)
        done = [
            _Columns(matrix[start : start + rows].clone(), encoding, scales.rows(start, start + rows), moment, self)
            for start, moment in zip(range(0, len(matrix), rows), second, strict=True)
        ]
        integers = torch.cat([each.run() for each in done])
        return integers, scales if len(scales.scale) == 1 else _joined([each.scales for each in done])


class _Columns:
    """The rows of one group, in the order in which their columns are rounded."""

    def __init__(self, matrix: Tensor, encoding: Integers, scales: Scales, second: Tensor, settings: GPTQ) -> None:
        self.encoding, self.scales, self.settings = encoding, scales, settings
        sizes = second.diagonal()
        columns = torch.arange(len(sizes), device=matrix.device)
        self.order = sizes.argsort(descending=True, stable=True) if settings.by_size else columns
        self.matrix = matrix[:, self.order]
        self.integers = torch.zeros_like(matrix, dtype=torch.int8)
        damped = second[self.order][:, self.order] + (sizes.mean() * settings.damping + 1e-30) * torch.eye(
            len(sizes), dtype=second.dtype, device=second.device
        )
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self.upper = torch.linalg.cholesky(inverse, upper=True)

    def run(self) -> Tensor:
        """The integers, in the order of the weight."""
        columns, block = self.matrix.shape[1], self._block()
        for start in range(0, columns, block):
            stop = min(start + block, columns)
            errors = torch.stack([self._column(place, stop) for place in range(start, stop)], dim=1)
            self.matrix[:, stop:] -= errors @ self.upper[start:stop, stop:]
        back = torch.empty_like(self.integers)
        back[:, self.order] = self.integers
        return back

    def _column(self, place: int, stop: int) -> Tensor:
        """Round one column; its error, over its own weight, changes those up to ``stop``."""
        column = self.matrix[:, place : place + 1]
        scales = self._scales(place)
        self.integers[:, place : place + 1] = encode(column, scales, self.encoding)
        rounded = decode(self.integers[:, place : place + 1], scales, 1).to(column.dtype)
        error: Tensor = (column - rounded)[:, 0] / self.upper[place, place]
        self.matrix[:, place + 1 : stop] -= error[:, None] * self.upper[place, place + 1 : stop]
        return error

    def _block(self) -> int:
        """Whole groups, so that a group knows of all errors before it when its scales are found."""
        block, group = self.settings.block, self.encoding.group
        return -(-block // group) * group if self.encoding.granularity == "group" else block

    def _scales(self, place: int) -> Scales:
        """Of one column; those of a group are found anew when its first column comes."""
        if self.encoding.granularity != "group":
            return self.scales
        number, first = divmod(int(self.order[place]), self.encoding.group)
        if first == 0 and not self.settings.by_size:
            self._fit(number, place)
        return self.scales.group(number)

    def _fit(self, number: int, place: int) -> None:
        found = fit(self.matrix[:, place : place + self.encoding.group], self.encoding, self.scales.scale.dtype)
        self.scales.scale[:, number] = found.scale[:, 0]
        if self.scales.zero_point is not None and found.zero_point is not None:
            self.scales.zero_point[:, number] = found.zero_point[:, 0]


def _joined(scales: list[Scales]) -> Scales:
    zeros = [each.zero_point for each in scales if each.zero_point is not None]
    return Scales(torch.cat([each.scale for each in scales]), torch.cat(zeros) if zeros else None)
