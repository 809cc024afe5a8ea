"""The base of metrics that need to see everything at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError


class Rows:
    """Named tensors, collected batch by batch along their first dim; they stay where the outputs lie."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def merge(self, other: Self) -> None:
        """Take in what ``other`` saw."""
        self._append({name: torch.cat(parts) for name, parts in other._parts.items()})

    def state(self) -> dict[str, Tensor]:
        """Each name's rows, concatenated; no names before anything is seen."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the rows."""
        self._parts = {name: [rows.clone()] for name, rows in state.items()}

    def _append(self, rows: Mapping[str, Tensor]) -> None:
        for name, tensor in rows.items():
            self._parts.setdefault(name, []).append(tensor.detach())

    def _seen(self) -> dict[str, Tensor]:
        """All rows, on the CPU.

        Raises:
            ModelwrightError: there are none.
        """
        if not self._parts:
            raise self._nothing()
        return {name: torch.cat([part.cpu() for part in parts]) for name, parts in self._parts.items()}

    def _nothing(self) -> ModelwrightError:
        return ModelwrightError(
            f"{type(self).__name__} has seen nothing to count",
            remedy="check that the data holds valid targets (-100 marks those to ignore)",
        )
