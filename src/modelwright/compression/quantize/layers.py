"""Layers that stand in for a model's own and hold their weight encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Encoding, Half, Integers, from_json
from modelwright.compression.quantize.inputs import DynamicInputs, StaticInputs, inputs_of
from modelwright.compression.quantize.training import TrainedWeight
from modelwright.compression.quantize.weights import EncodedWeight, IntegerWeight, encoded_weight
from modelwright.reforms.matrices import is_convolution, is_linear, is_transposed_linear

_LONGEST = 2**17  # products of bytes whose sum is sure to fit into 32 bits
_PRODUCTS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_WINDOW = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

_shared: WeakIdKeyDictionary = WeakIdKeyDictionary()  # a tied weight -> what it became, while changes are made


class QuantizedLayer(nn.Module):
    """What the layers have in common.

    Attributes:
        encoded: the weight.
        inputs: rounds what the layer reads; ``None``: nothing does.
        bias: as it was.
    """

    encoded: EncodedWeight
    inputs: DynamicInputs | StaticInputs | None
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The decoded weight, for code that looks at a layer's weight; computed each time."""
        return self.encoded.decoded()

    def _typed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, weight and bias in the type in which they are multiplied."""
        weight, encoding = self.encoded.decoded(), self.encoded.encoding
        kind = weight.dtype if isinstance(encoding, Half) and encoding.compute else x.dtype
        return x.to(kind), weight.to(kind), None if self.bias is None else self.bias.to(kind)


class QuantizedLinear(QuantizedLayer):
    """``x [..., in_features] -> [..., out_features]``.

    Where inputs are rounded and nothing is trained, a CPU multiplies the integers themselves, if each row of the
    weight has one symmetric scale. Elsewhere the product is one of floating-point numbers that stand for the integers,
    which is the same but for the rounding of sums.

    Args:
        encoded: the weight ``[out_features, in_features]``.
        bias: ``[out_features]``.
        inputs: see :class:`QuantizedLayer`.
    """

    def __init__(
        self, encoded: EncodedWeight, bias: Tensor | None, inputs: DynamicInputs | StaticInputs | None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = encoded.shape
        self.encoded, self.inputs, self.bias = encoded, inputs, bias

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`QuantizedLinear`."""
        if self.inputs is not None and _multiplies_integers(self.encoded, x):
            return self._integer_product(x, self.inputs)
        read = x if self.inputs is None else self.inputs(x)
        return functional.linear(*self._typed(read)).to(x.dtype)

    def _integer_product(self, x: Tensor, inputs: DynamicInputs | StaticInputs) -> Tensor:
        weight = self.encoded
        assert isinstance(weight, IntegerWeight)
        rows, scales, integers = x.reshape(-1, x.shape[-1]), inputs.scales(x), weight.integers()
        sums = torch._int_mm(inputs.integers(x, scales).view(rows.shape), integers.t()).view(*x.shape[:-1], -1)
        if scales.zero_point is not None and (isinstance(inputs, StaticInputs) or not inputs.symmetric):
            sums = sums - scales.zero_point.to(torch.int32) * integers.sum(1, dtype=torch.int32)
        product = sums * (scales.scale * weight.scale[:, 0])
        return (product if self.bias is None else product + self.bias).to(x.dtype)


class QuantizedConvolution(QuantizedLayer):
    """A convolution over one, two or three dims; it multiplies floating-point numbers that stand for the integers.

    Args:
        encoded: the weight ``[out_channels, in_channels / groups, *kernel_size]``.
        bias: ``[out_channels]``.
        inputs: see :class:`QuantizedLayer`.
        window: kernel_size, stride, padding, dilation, groups and padding_mode of the layer that it stands in for.
    """

    def __init__(
        self,
        encoded: EncodedWeight,
        bias: Tensor | None,
        inputs: DynamicInputs | StaticInputs | None,
        window: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.encoded, self.inputs, self.bias = encoded, inputs, bias
        for name in _WINDOW:
            setattr(self, name, window[name])
        self.out_channels, self.in_channels = encoded.shape[0], encoded.shape[1] * window["groups"]

    def forward(self, x: Tensor) -> Tensor:
        """``x [batch, in_channels, ...] -> [batch, out_channels, ...]``."""
        read, weight, bias = self._typed(x if self.inputs is None else self.inputs(x))
        multiply: Any = _PRODUCTS[weight.dim() - 2]
        return multiply(read, weight, bias, self.stride, self.padding, self.dilation, self.groups).to(x.dtype)  # type: ignore[no-any-return]


class QuantizedEmbedding(QuantizedLayer):
    """``places [...] -> [..., embedding_dim]``; of the weight only the rows that are asked for are decoded.

    Args:
        encoded: the weight ``[num_embeddings, embedding_dim]``.
        padding_idx: as of ``nn.Embedding``, for code that looks at it.
        dtype: of what it returns.
    """

    inputs = None
    bias = None

    def __init__(self, encoded: EncodedWeight, padding_idx: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = encoded.shape
        self.encoded, self.padding_idx, self.dtype = encoded, padding_idx, dtype

    def forward(self, places: Tensor) -> Tensor:
        """See :class:`QuantizedEmbedding`."""
        return self.encoded.rows(places).to(self.dtype)


def kind_of(module: nn.Module) -> str:
    """``linear``, ``convolution`` or ``embedding``; empty for layers that nothing here stands in for."""
    if isinstance(module, QuantizedLayer):
        return {QuantizedLinear: "linear", QuantizedEmbedding: "embedding"}.get(type(module), "convolution")
    if is_linear(module) or is_transposed_linear(module):
        return "linear"
    if is_convolution(module) and module.padding_mode == "zeros":
        return "convolution"
    plain = isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward
    return "embedding" if plain and module.max_norm is None and not module.sparse else ""


def quantized(
    old: nn.Module,
    *,
    weights: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    shared: bool = False,
    trained: bool = False,
) -> QuantizedLayer:
    """What stands in for a layer, its weight not set; a replacement of :mod:`modelwright.models.change`.

    Args:
        old: a linear layer, also a transposed one of transformers, a convolution, an embedding; or what stands in for
            one already.
        weights: the encoding, as of :func:`~modelwright.compression.quantize.encoding.to_json`.
        inputs: how what it reads is rounded, as of ``to_json`` of inputs.
        shared: layers that shared the weight share what this makes of it.
        trained: the weight stays a parameter that can be trained, and is rounded where it is used.

    Raises:
        ModelwrightError: the layer is of another kind.
    """
    kind = kind_of(old)
    if not kind:
        raise ModelwrightError(
            f"nothing stands in for a {type(old).__name__}",
            remedy="quantise linear layers, convolutions that are not transposed, and embeddings; leave others out",
        )
    encoded = _encoded(old, from_json(weights), shared=shared, trained=trained)
    bias, rounding = getattr(old, "bias", None), inputs_of(inputs, samples=kind == "convolution")
    if kind == "linear":
        return QuantizedLinear(encoded, bias, rounding)
    if kind == "convolution":
        return QuantizedConvolution(encoded, bias, rounding, {name: getattr(old, name) for name in _WINDOW})
    dtype = old.dtype if isinstance(old, QuantizedEmbedding) else old.weight.dtype
    return QuantizedEmbedding(encoded, old.padding_idx, dtype)  # type: ignore[arg-type]


def _encoded(old: Any, encoding: Encoding, *, shared: bool, trained: bool) -> EncodedWeight:
    key = old.encoded if isinstance(old, QuantizedLayer) else old.weight
    known: EncodedWeight | None = _shared[key] if shared and key in _shared else None
    if known is not None and known.encoding == encoding and isinstance(known, TrainedWeight) == trained:
        return known
    weight = old.weight.detach()
    shape = tuple(reversed(weight.shape)) if is_transposed_linear(old) else tuple(weight.shape)
    place: Any = {"dtype": weight.dtype, "device": weight.device}
    made = TrainedWeight(shape, encoding, **place) if trained else encoded_weight(shape, encoding, **place)
    if shared:
        _shared[key] = made
    return made


def _multiplies_integers(weight: EncodedWeight, x: Tensor) -> bool:
    encoding = weight.encoding
    if not isinstance(weight, IntegerWeight) or not isinstance(encoding, Integers):
        return False
    suits = encoding.symmetric and encoding.granularity != "group" and weight.columns <= _LONGEST
    usual = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0
    trains = torch.is_grad_enabled() and x.requires_grad
    return suits and usual and not trains and not torch.compiler.is_exporting()


def rows_of(module: Any) -> int:
    """How many rows the weight of a layer has that may become a quantized one."""
    return int(module.weight.shape[1 if is_transposed_linear(module) else 0])


def matrix_in(module: Any) -> Tensor:
    """The weight of such a layer as ``[rows, columns]``, in float64."""
    weight: Tensor = module.weight.detach().double()
    return weight.T if is_transposed_linear(module) else weight.flatten(1)
