"""Rounding: which integers stand for a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from modelwright.compression.quantize.encoding import Integers, Scales

ROUNDINGS = Family(
    "rounding",
    {
        "nearest": "modelwright.compression.quantize.rounding.nearest:Nearest",
        "gptq": "modelwright.compression.quantize.rounding.gptq:GPTQ",
    },
)


class Rounding(Protocol):
    """How a weight becomes integers.

    ``reads`` says whether it needs the second moment of what the layer reads, and so examples.
    """

    @property
    def reads(self) -> bool:
        """Whether it needs examples."""
        ...

    def round(
        self, matrix: Tensor, encoding: Integers, second: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Scales]:
        """Integers and what they mean.

        Args:
            matrix: ``[rows, columns]``, float64.
            encoding: of the integers.
            second: mean of ``x x^T`` over what a row is multiplied with, float64 ``[groups, columns, columns]``: of as
                many groups of rows one after the other; ``None`` where nothing is known.
            dtype: of the scales.

        Returns:
            int8 ``[rows, columns]``, and the scales.
        """
        ...


__all__ = ["ROUNDINGS", "Rounding"]
