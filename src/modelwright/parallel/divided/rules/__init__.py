"""Rules by kind of operator; importing this registers them all."""

from modelwright.parallel.divided.rules import (
    attention,
    channels,
    convolutions,
    cross_entropy,
    elementwise,
    experts,
    factories,
    indexing,
    linear,
    linear_cross_entropy,
    norms,
    products,
    reductions,
    views,
    writing,
)

__all__ = [
    "attention",
    "channels",
    "convolutions",
    "cross_entropy",
    "elementwise",
    "experts",
    "factories",
    "indexing",
    "linear",
    "linear_cross_entropy",
    "norms",
    "products",
    "reductions",
    "views",
    "writing",
]
