"""Floating-point operations of matrix products, convolutions and attention, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

ATTENTION = "aten.scaled_dot_product_attention.default"
ATTENTION_BACKWARD = "modelwright.scaled_dot_product_attention_backward"


def flops(name: str, arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    """Those of one call, a multiplication and an addition being two; 0 for operators that are no products.

    Args:
        name: of the operator, with its overload.
        arguments: by the names of its schema.
        outputs: what it returned.
    """
    count = _COUNTS.get(name.rpartition(".")[0] if name.startswith("aten.") else name)
    return 0 if count is None else count(arguments, outputs)


def _product(first: str, second: str) -> Callable[[Mapping[str, Any], tuple[Tensor, ...]], int]:
    def count(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
        left, right = arguments[first], arguments[second]
        return 2 * int(left.numel()) * int(right.shape[-1])

    return count


def _dot(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    return 2 * int(arguments["self"].numel())


def _convolution(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    of = arguments["input"] if arguments["transposed"] else outputs[0]
    return _convolution_over(of, arguments["weight"])


def _convolution_over(pixels: Tensor, weight: Tensor) -> int:
    """Each number of ``pixels [batch, channels, ...]`` is a product with one row of ``weight``."""
    return 2 * int(pixels.numel()) * math.prod(weight.shape[1:])


def _convolution_backward(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    of = arguments["input"] if arguments["transposed"] else arguments["grad_output"]
    wanted = sum(bool(each) for each in arguments["output_mask"][:2])
    return wanted * _convolution_over(of, arguments["weight"])


def _attention(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    """Scores, then their products with the values."""
    query, value = arguments["query"], arguments["value"]
    pairs: int = math.prod(outputs[0].shape[:-1]) * int(value.shape[-2])
    return 2 * pairs * (int(query.shape[-1]) + int(value.shape[-1]))


def _attention_backward(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> int:
    """Scores again, their gradient, and the gradients of query, key and value."""
    query, value = arguments["query"], arguments["value"]
    pairs: int = math.prod(arguments["grad_output"].shape[:-1]) * int(value.shape[-2])
    return 2 * pairs * (3 * int(query.shape[-1]) + 2 * int(value.shape[-1]))


_COUNTS: dict[str, Callable[[Mapping[str, Any], tuple[Tensor, ...]], int]] = {
    "aten.mm": _product("self", "mat2"),
    "aten.addmm": _product("mat1", "mat2"),
    "aten.bmm": _product("self", "mat2"),
    "aten._grouped_mm": _product("self", "mat2"),
    "aten._scaled_mm": _product("self", "mat2"),
    "aten.baddbmm": _product("batch1", "batch2"),
    "aten.addbmm": _product("batch1", "batch2"),
    "aten.mv": lambda arguments, outputs: 2 * int(arguments["self"].numel()),
    "aten.addmv": lambda arguments, outputs: 2 * int(arguments["mat"].numel()),
    "aten.dot": _dot,
    "aten.convolution": _convolution,
    "aten.convolution_overrideable": _convolution,
    "aten.convolution_backward": _convolution_backward,
    "aten.convolution_backward_overrideable": _convolution_backward,
    ATTENTION.rpartition(".")[0]: _attention,
    ATTENTION_BACKWARD: _attention_backward,
}
