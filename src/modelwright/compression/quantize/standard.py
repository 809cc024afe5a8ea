"""The same arithmetic by operators that the ONNX exporter writes as QuantizeLinear and DequantizeLinear.

Integers of 8 bits go without sign there, shifted by 128: x86 multiplies bytes without sign with bytes that have one.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

_SHIFT = 128


def quantized(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """``x`` as uint8; the zero point is that of integers with a sign."""
    operator = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return operator(x, scale, zero_point + _SHIFT, 0, 255, torch.uint8)  # type: ignore[no-any-return]


def dequantized(integers: Tensor, scale: float, zero_point: int) -> Tensor:
    """What :func:`quantized` was given, rounded."""
    operator = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    return operator(integers, scale, zero_point + _SHIFT, 0, 255, torch.uint8)  # type: ignore[no-any-return]


def dequantized_rows(integers: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Int8 ``[rows, ...]`` with a scale for each row."""
    zero = torch.zeros_like(scale, dtype=torch.int64) if zero_point is None else zero_point.to(torch.int64)
    operator = torch.ops.quantized_decomposed.dequantize_per_channel.default
    return operator(integers, scale, zero, 0, -128, 127, torch.int8)  # type: ignore[no-any-return]
