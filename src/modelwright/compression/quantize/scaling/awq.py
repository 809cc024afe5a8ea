"""AWQ: weights of the channels that matter most made larger, so that rounding hurts them less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count
from modelwright.compression.quantize.encoding import Encoding, Integers, decode, encode, fit
from modelwright.compression.quantize.layers import matrix_in
from modelwright.compression.quantize.scaling.finding import wanted_pairs
from modelwright.reforms.moments import Forward, Moments, gather


@dataclass(frozen=True, kw_only=True)
class AWQ:
    """Multiplies columns of weights by ``size(x)^ratio``, the ratio being that which changes the outputs least.

    For weights of few bits, in groups above all. Source: Lin et al. 2023, arXiv:2306.00978; the size of a channel is
    here its root mean square, and the error of the outputs comes from second moments, over all examples.

    Attributes:
        ratios: how many are tried, from 0 to below 1; with 0 nothing is scaled.
    """

    ratios: Count = 20

    def __post_init__(self) -> None:
        if self.ratios < 2:
            raise ModelwrightError(f"at least 2 ratios are tried, not {self.ratios}", where="ratios")

    def scale(
        self, model: nn.Module, encodings: Mapping[str, Encoding], examples: Sequence[Any], forward: Forward | None
    ) -> dict[str, Any]:
        """See :class:`~modelwright.compression.quantize.scaling.Scaling`."""
        pairs = wanted_pairs(model, encodings, examples[0], forward)
        moments = gather(model, [name for names in pairs.values() for name in names], examples, forward=forward)
        facts: dict[str, Any] = {}
        for pair, names in pairs.items():
            layers = [_layer(model, name, encodings[name], moments[name]) for name in names if name in moments]
            if layers:
                ratio, factors = self._best(layers)
                pair.move(model, factors)
                facts[pair.gives[0][0]] = {"layers": list(pair.layers), "ratio": ratio}
        return facts

    def _best(self, layers: Sequence[Layer]) -> tuple[float, Tensor]:
        sizes = torch.stack([each.second.diagonal() for each in layers]).mean(0).clamp(min=0).sqrt()
        tried = [step / self.ratios for step in range(self.ratios)]
        factors = {ratio: _factors(sizes, ratio) for ratio in tried}
        best = min(tried, key=lambda ratio: sum(output_error(each, factors[ratio]) for each in layers))
        return best, factors[best]


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer that will be rounded.

    Attributes:
        matrix: ``[rows, columns]``.
        encoding: of the weight.
        second: mean of ``x x^T`` of what it reads, ``[columns, columns]``.
    """

    matrix: Tensor
    encoding: Integers
    second: Tensor


def output_error(layer: Layer, factors: Tensor) -> float:
    """Mean square by which the outputs change when the weight, its columns times ``factors``, is rounded."""
    scaled = layer.matrix * factors
    scales = fit(scaled, layer.encoding, layer.matrix.dtype)
    rounded = decode(encode(scaled, scales, layer.encoding), scales, layer.encoding.group)
    change = rounded / factors - layer.matrix
    return float(((change @ layer.second) * change).sum())


def _layer(model: nn.Module, name: str, encoding: Encoding, moments: Moments) -> Layer:
    assert isinstance(encoding, Integers)
    return Layer(matrix_in(model.get_submodule(name)), encoding, moments.second[0])


def _factors(sizes: Tensor, ratio: float) -> Tensor:
    factors = sizes.clamp(min=sizes.max() * 1e-4).clamp(min=1e-12).pow(ratio)
    return factors / (factors.max() * factors.min()).sqrt()
