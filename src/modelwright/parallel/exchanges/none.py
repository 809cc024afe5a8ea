"""No exchange: a world of one replica."""

from __future__ import annotations

from collections.abc import Sequence
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

    def after_step(self) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}
