"""The edits of a quantization, and the numbers that go into the layers they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.events import emit
from modelwright.compression.quantize.asking import Asked
from modelwright.compression.quantize.choosing import multiplying
from modelwright.compression.quantize.encoding import Encoding, Integers, to_json
from modelwright.compression.quantize.inputs import Dynamic, Static, static_inputs
from modelwright.compression.quantize.layers import QuantizedLayer, matrix_in
from modelwright.compression.quantize.reading import Look, read
from modelwright.compression.quantize.result import EncodedLayer
from modelwright.compression.quantize.rounding import Rounding
from modelwright.compression.quantize.weights import IntegerWeight
from modelwright.models.change import Edit, Replace, SetNumber
from modelwright.reforms.moments import Forward, Moments, gather

Rounded = Mapping[str, Mapping[str, Any]]
"""By layer, how what it reads is rounded, JSON-ready."""


def seen_moments(
    model: nn.Module, encodings: Mapping[str, Encoding], asked: Asked, examples: Sequence[Any], forward: Forward | None
) -> dict[str, Moments]:
    """Moments of what layers read, where rounding asks for them."""
    names = multiplying(model, encodings)
    if not asked.rounding.reads or not names:
        return {}
    moments = gather(model, names, examples, forward=forward)
    _tell_unseen([name for name in names if name not in moments], "rounded to the nearest")
    return moments


def rounded_inputs(
    model: nn.Module, encodings: Mapping[str, Encoding], asked: Asked, examples: Sequence[Any], forward: Forward | None
) -> Rounded:
    """How what layers read is rounded."""
    names = multiplying(model, encodings)
    if isinstance(asked.activations, Dynamic):
        return {name: {"kind": "dynamic", "symmetric": asked.activations.symmetric} for name in names}
    if isinstance(asked.activations, Static):
        return _observed(model, names, asked.activations, examples, forward)
    return {}


def edits_for(
    model: nn.Module, encodings: Mapping[str, Encoding], inputs: Rounded, tied: Mapping[str, str], *, trained: bool
) -> Iterator[Edit]:
    """What makes the structure of the quantized model."""
    for name, module in model.named_modules():
        inside = any(each.startswith(f"{name}." if name else "") for each in encodings)
        if isinstance(module, nn.TransformerEncoderLayer) and inside:
            # Its fast path would read the weights, and skip what the layers do with their inputs.
            yield SetNumber(module=name, attribute="activation_relu_or_gelu", value=0)
    for name, encoding in encodings.items():
        arguments: dict[str, Any] = {"weights": to_json(encoding)}
        if name in inputs:
            arguments["inputs"] = dict(inputs[name])
        if name in tied:
            arguments["shared"] = True
        if trained:
            arguments["trained"] = True
        yield Replace(module=name, by="quantized", arguments=arguments)


class Numbers:
    """The weights of layers while these are replaced.

    Args:
        model: that has them.
        names: of the layers.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
        self._weights = {name: layer.weight.detach() for name, layer in layers.items()}
        self._old = layers

    @torch.no_grad()
    def fill(self, model: nn.Module, rounding: Rounding, moments: Mapping[str, Moments]) -> list[EncodedLayer]:
        """Give them to the layers that replaced theirs; of tied ones, one with moments decides."""
        for name in sorted(self._old, key=lambda each: each in moments):
            encoded: Any = _layer(model, name).encoded
            matrix, encoding = matrix_in(self._old[name]), encoded.encoding
            if isinstance(encoded, IntegerWeight) and isinstance(encoding, Integers):
                second = moments[name].second if name in moments else None
                encoded.set(*rounding.round(matrix, encoding, second, encoded.scale.dtype))
            else:
                encoded.fill(matrix)
        return [self._layer(model, name) for name in self._old]

    def _layer(self, model: nn.Module, name: str) -> EncodedLayer:
        encoded = _layer(model, name).encoded
        matrix: Tensor = matrix_in(self._old[name])
        error = (encoded.matrix().double() - matrix).norm() / matrix.norm().clamp(min=1e-300)
        return EncodedLayer(
            name=name,
            encoding=encoded.encoding,
            bytes=(self._weights[name].nbytes, encoded.stored_bytes),
            error=float(error),
        )


def _layer(model: nn.Module, name: str) -> QuantizedLayer:
    found = model.get_submodule(name)
    assert isinstance(found, QuantizedLayer)
    return found


def _observed(
    model: nn.Module, names: Sequence[str], static: Static, examples: Sequence[Any], forward: Forward | None
) -> Rounded:
    observing = {name: static.observer.build() for name in names}
    reached: dict[str, None] = {}

    def look_of(name: str) -> Look:
        def look(x: Tensor) -> None:
            observing[name].observe(x)
            reached[name] = None

        return look

    read(model, {name: look_of(name) for name in names}, examples, forward)
    _tell_unseen([name for name in names if name not in reached], "what they read is not rounded")
    encoding = Integers(bits=8, symmetric=static.symmetric)
    ranges = {name: observing[name].range(encoding) for name in names if name in reached}
    return {name: static_inputs(*ends, symmetric=static.symmetric).to_json() for name, ends in ranges.items()}


def _tell_unseen(names: Sequence[str], done: str) -> None:
    if names:
        message = f"no example reached {', '.join(names)}: {done}"
        emit("quantize-unseen", message, level="warning", layers=list(names))
