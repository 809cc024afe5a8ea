"""Scaling: size moved from channels where rounding hurts to those where it does not, before anything is rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import nn

    from modelwright.compression.quantize.encoding import Encoding
    from modelwright.reforms.moments import Forward

SCALINGS = Family(
    "scaling",
    {
        "smooth": "modelwright.compression.quantize.scaling.smooth:SmoothQuant",
        "awq": "modelwright.compression.quantize.scaling.awq:AWQ",
    },
)


class Scaling(Protocol):
    """How a model is scaled; what it computes stays the same."""

    def scale(
        self, model: nn.Module, encodings: Mapping[str, Encoding], examples: Sequence[Any], forward: Forward | None
    ) -> dict[str, Any]:
        """Scale ``model`` in place.

        Args:
            model: float weights.
            encodings: of the layers that will be encoded, by name.
            examples: at least one.
            forward: of ``(model, example)``, where an example is not simply the model's arguments.

        Returns:
            What was scaled, JSON-ready, for the record.
        """
        ...


__all__ = ["SCALINGS", "Scaling"]
