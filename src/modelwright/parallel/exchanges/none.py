"""No exchange: a world of one replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn


class NoExchange:
    """Leaves gradients as they are."""

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to learn."""

    def backward(self, last: bool) -> AbstractContextManager[None]:
        """Nothing to surround."""
        return nullcontext()

    def before_step(self) -> None:
        """Nothing is open."""

    def after_step(self, masked: Tensor | bool = False) -> None:
        """Nothing to do."""

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """Nothing to take up."""
