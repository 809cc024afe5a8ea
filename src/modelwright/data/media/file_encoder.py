"""New images or sounds, in files, as the model's inputs, made as those it learnt from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.data.classes import names_of

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch


@dataclass(frozen=True)
class FileEncoder:
    """Rows with the path of a file to inputs, and outputs to names of classes.

    Attributes:
        read: a file to an array of one sample.
        endings: of the names of such files, in small letters.
        column: of the paths.
        classes: their names by number.
    """

    read: Callable[[Path], NDArray[Any]]
    endings: frozenset[str]
    classes: tuple[str, ...]
    column: str = "path"

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Batch:
        """``inputs [rows, ...]``, each file decoded as the training data was; labels are not looked at.

        Raises:
            ModelwrightError: a row has no path, or a file is missing or cannot be read.
        """
        arrays = [self.read(self._path(number, row)) for number, row in enumerate(rows, start=1)]
        return {"inputs": torch.from_numpy(np.stack(arrays))}

    def decode(self, outputs: Tensor) -> list[Any]:
        """Names of the likeliest classes of ``outputs [rows, classes]``."""
        return names_of(outputs, self.classes)

    def _path(self, number: int, row: Mapping[str, Any]) -> Path:
        given = row.get(self.column)
        if not isinstance(given, str) or not given:
            raise ModelwrightError(
                f"there is no path in '{self.column}'",
                where=f"row {number}",
                remedy=f"the model reads files whose paths stand there; {nearest(self.column, row)}",
            )
        return Path(given)
