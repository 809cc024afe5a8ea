"""Observers: what range the numbers have that a layer reads, seen on examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.compression.quantize.encoding import Integers

OBSERVERS = Family(
    "observer",
    {
        "min-max": "modelwright.compression.quantize.observers.min_max:MinMax",
        "percentile": "modelwright.compression.quantize.observers.percentile:Percentile",
        "mean-squared-error": "modelwright.compression.quantize.observers.mean_squared_error:MeanSquaredError",
        "entropy": "modelwright.compression.quantize.observers.entropy:Entropy",
    },
)


class Observing(Protocol):
    """What has been seen so far."""

    def observe(self, x: Tensor) -> None:
        """Take in the numbers of ``x [...]``; finite ones, of any type."""

    def range(self, encoding: Integers) -> tuple[float, float]:
        """From where to where integers of ``encoding`` shall reach; numbers beyond become the end."""
        ...


class Observer(Protocol):
    """The configuration of an observer."""

    def build(self) -> Observing:
        """One that has seen nothing."""
        ...


__all__ = ["OBSERVERS", "Observer", "Observing"]
