"""What a bucket holds: gradients one after another, then a flag for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Contents:
    """Of one bucket.

    Attributes:
        shapes: of the parameters.
        dtype: of their gradients.
        device: where they lie.
        first: how many parameters are in the buckets before.
    """

    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    device: torch.device
    first: int = 0

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], first: int = 0) -> Contents:
        """The contents of a bucket of these parameters, which are of one type on one device."""
        alike = parameters[0]
        return cls(tuple(parameter.shape for parameter in parameters), alike.dtype, alike.device, first)

    @property
    def sizes(self) -> list[int]:
        """Numbers of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def wide(self) -> torch.dtype:
        """In which errors are remembered: the gradients' own type, at least float32."""
        return torch.promote_types(self.dtype, torch.float32)
