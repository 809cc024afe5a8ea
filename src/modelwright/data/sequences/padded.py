"""Rows of different lengths as batches of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.data.sequences.ragged import Ragged

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions


@dataclass(frozen=True)
class Fill:
    """How a column becomes a tensor ``[rows, length]``.

    Attributes:
        column: which.
        length: numbers in a row; ``None``: as many as the longest of the batch.
        fill: stands after the end of a shorter row.
    """

    column: str
    length: int | None
    fill: int


class Padded:
    """Columns of :class:`Ragged` as tensors, int64.

    Args:
        rows: what is on disk.
        fields: name in a batch -> how it is filled.
        numbers: name in a batch -> column of one number per row, given as ``[rows]``.
        lengths: name in a batch -> column whose lengths it gives, ``[rows]``.
        masks: name in a batch -> field whose own numbers it marks, bool ``[rows, length]``.
    """

    def __init__(
        self,
        rows: Ragged,
        fields: Mapping[str, Fill],
        *,
        numbers: Mapping[str, str] | None = None,
        lengths: Mapping[str, str] | None = None,
        masks: Mapping[str, str] | None = None,
    ) -> None:
        self._rows, self._fields = rows, dict(fields)
        self._numbers, self._lengths, self._masks = dict(numbers or {}), dict(lengths or {}), dict(masks or {})

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def alike(self) -> bool:
        """Whether a row has one length, whichever it is read with."""
        return all(field.length is not None for field in self._fields.values())

    def __getitems__(self, positions: Positions) -> Batch:
        """Rows at ``positions``, padded: name -> ``[rows, length]`` or ``[rows]``."""
        places = np.asarray(positions, dtype=np.int64)
        arrays: dict[str, NDArray[Any]] = {
            name: self._rows.padded(field.column, places, field.length, field.fill)
            for name, field in self._fields.items()
        }
        for name, field in self._masks.items():
            lengths = self._rows.lengths(self._fields[field].column, places)
            arrays[name] = np.arange(arrays[field].shape[1]) < lengths[:, None]
        for name, column in self._lengths.items():
            arrays[name] = self._rows.lengths(column, places)
        for name, column in self._numbers.items():
            arrays[name] = self._rows.padded(column, places, 1, 0)[:, 0]
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
