"""The pairs of a model that matter to layers that will be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from modelwright.base.events import emit
from modelwright.compression.quantize.choosing import multiplying
from modelwright.compression.quantize.encoding import Encoding
from modelwright.compression.quantize.scaling.pairs import Pair, pairs_of
from modelwright.graph import trace
from modelwright.models.modes import evaluating
from modelwright.reforms.moments import Forward


def wanted_pairs(
    model: nn.Module, encodings: Mapping[str, Encoding], example: Any, forward: Forward | None
) -> dict[Pair, tuple[str, ...]]:
    """Pairs that a layer with integers takes from, each with all such layers; layers without a pair are told.

    Only these layers are called with what they read: torch's MultiheadAttention, which may take factors as well, reads
    the weights in it itself.

    Raises:
        ModelwrightError: the model cannot be traced.
    """
    layers = multiplying(model, encodings)
    with evaluating(model):
        graph = trace(model, example, forward=forward)
    readers = {pair: tuple(name for name in pair.layers if name in layers) for pair in pairs_of(graph)}
    pairs = {pair: names for pair, names in readers.items() if names}
    taken = {name for names in pairs.values() for name in names}
    if left := [name for name in layers if name not in taken]:
        message = f"nothing before them can give its size to {len(left)} layers: {', '.join(left[:4])}"
        emit("layers-not-scaled", message, level="info" if pairs else "warning", layers=left)
    return pairs
