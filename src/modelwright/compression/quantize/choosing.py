"""Which layer gets which encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matching
from modelwright.compression.quantize.asking import Asked
from modelwright.compression.quantize.encoding import Encoding, Half, Integers
from modelwright.compression.quantize.found import Found
from modelwright.compression.quantize.layers import kind_of, rows_of

_SHOWN = 4
Encodings = dict[str, Encoding]


def choose(model: nn.Module, found: Found, asked: Asked) -> tuple[Encodings, dict[str, str]]:
    """The encoding of each layer, and why others are left alone.

    Raises:
        ModelwrightError: no layer is left, or a pattern fits none.
    """
    if isinstance(asked.weights, Mapping):
        matching(found.names, asked.weights, "weights")
    chosen: Encodings = {}
    left = dict(found.left_alone)
    for name in found.names:
        encoding = asked.encoding_of(found.tied.get(name, name))
        reason = "no encoding was given for it" if encoding is None else _gains_nothing(model, name, encoding)
        if encoding is None or (reason and not asked.trained):
            left[name] = reason
        else:
            chosen[name] = encoding
    if not chosen:
        raise ModelwrightError(
            "no layer can be encoded",
            where=listed(left) or type(model).__name__,
            remedy="choose others by include, exclude and weights, or leave this step out",
        )
    return chosen, left


def multiplying(model: nn.Module, encodings: Mapping[str, Encoding]) -> list[str]:
    """The layers that multiply with integers what they read."""
    return [
        name
        for name, encoding in encodings.items()
        if isinstance(encoding, Integers) and kind_of(model.get_submodule(name)) != "embedding"
    ]


def listed(reasons: Mapping[str, str]) -> str:
    """Names with their reasons, the first few."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in list(reasons.items())[:_SHOWN])
    return f"{shown}; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else shown


def _gains_nothing(model: nn.Module, name: str, encoding: Encoding) -> str:
    module: Any = model.get_submodule(name)
    weight, rows = module.weight, rows_of(module)
    after = encoding.bytes(rows, weight.numel() // rows, weight.dtype)
    if after < weight.nbytes or (isinstance(encoding, Half) and encoding.compute and after == weight.nbytes):
        return ""
    return f"it would have {after} bytes, and has {weight.nbytes}"
