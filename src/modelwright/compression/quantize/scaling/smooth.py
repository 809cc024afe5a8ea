"""SmoothQuant: outliers of what layers read, moved into their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Encoding
from modelwright.compression.quantize.reading import Look, read
from modelwright.compression.quantize.scaling.finding import wanted_pairs
from modelwright.compression.quantize.scaling.pairs import Pair
from modelwright.reforms.moments import Forward


@dataclass(frozen=True, kw_only=True)
class SmoothQuant:
    """Divides channels of what layers read by ``max|x|^strength / max|w|^(1 - strength)``; weights make up for it.

    For activations that are rounded: a few channels with outliers make the steps of all others wide. Source: Xiao et
    al. 2022, arXiv:2211.10438.

    Attributes:
        strength: 0 leaves it all to the activations, 1 to the weights.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ModelwrightError(f"strength is from 0 to 1, not {self.strength}", where="strength")

    def scale(
        self, model: nn.Module, encodings: Mapping[str, Encoding], examples: Sequence[Any], forward: Forward | None
    ) -> dict[str, Any]:
        """See :class:`~modelwright.compression.quantize.scaling.Scaling`."""
        pairs = wanted_pairs(model, encodings, examples[0], forward)
        largest = _largest(model, pairs, examples, forward)
        for pair, inputs in largest.items():
            pair.move(model, self._factors(model, pair, inputs))
        return {pair.gives[0][0]: list(pair.layers) for pair in largest}

    def _factors(self, model: nn.Module, pair: Pair, inputs: Tensor) -> Tensor:
        weights = torch.stack([model.get_parameter(name).detach().abs().amax(1 - dim) for name, dim in pair.takes])
        inputs, columns = inputs.double(), weights.amax(0).double()
        factors = inputs.pow(self.strength) / columns.pow(1 - self.strength)
        return torch.where((inputs > 0) & (columns > 0), factors, 1.0).clamp(1e-5, 1e5)


def _largest(
    model: nn.Module, pairs: Mapping[Pair, Sequence[str]], examples: Sequence[Any], forward: Forward | None
) -> dict[Pair, Tensor]:
    """The largest size of each channel of what the layers of a pair read; without pairs that no example reaches."""
    found: dict[Pair, Tensor] = {}

    def look_of(pair: Pair) -> Look:
        def look(x: Tensor) -> None:
            largest = x.detach().abs().reshape(-1, x.shape[-1]).amax(0)
            found[pair] = torch.maximum(found[pair], largest) if pair in found else largest

        return look

    read(model, {name: look_of(pair) for pair, names in pairs.items() for name in names}, examples, forward)
    return found
