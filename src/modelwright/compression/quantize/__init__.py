"""Quantize: weights, and what layers read, in fewer bits."""

from __future__ import annotations

from modelwright.base.choice import Family
from modelwright.compression.quantize.observers import OBSERVERS
from modelwright.compression.quantize.rounding import ROUNDINGS
from modelwright.compression.quantize.scaling import SCALINGS

ENCODINGS = Family(
    "encoding",
    {
        "integers": "modelwright.compression.quantize.encoding:Integers",
        "half": "modelwright.compression.quantize.encoding:Half",
    },
)

ACTIVATIONS = Family(
    "activations",
    {
        "dynamic": "modelwright.compression.quantize.inputs:Dynamic",
        "static": "modelwright.compression.quantize.inputs:Static",
    },
)

__all__ = ["ACTIVATIONS", "ENCODINGS", "OBSERVERS", "ROUNDINGS", "SCALINGS"]
