"""What a quantization gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelwright.base.units import bytes_text
from modelwright.compression.quantize.encoding import Encoding
from modelwright.compression.receipt import Result


@dataclass(frozen=True, kw_only=True)
class EncodedLayer:
    """What became of a layer.

    Attributes:
        name: of the layer.
        encoding: of its weight.
        bytes: of its weight before and after; tied ones have the same.
        error: relative error of the weight, as a norm.
    """

    name: str
    encoding: Encoding
    bytes: tuple[int, int]
    error: float

    def __str__(self) -> str:
        before, after = map(bytes_text, self.bytes)
        return f"{self.name}: {self.encoding.bits} bits, {before} -> {after}, error {self.error:.2%}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized(Result):
    """What :func:`~modelwright.compression.quantize.quantizing.quantize` gives, a ``Result`` and more.

    Attributes:
        layers: those that are encoded, in the order of the model.
        left_alone: the others that have a matrix, and why.
    """

    layers: tuple[EncodedLayer, ...]
    left_alone: Mapping[str, str]

    def __str__(self) -> str:
        left = [f"  {name}: left alone, {reason}" for name, reason in self.left_alone.items()]
        return "\n".join([str(self.receipt), *(f"  {each}" for each in self.layers), *left])
