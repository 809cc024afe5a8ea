"""Several optimizers that act as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelwright.optim import Optimizer

if TYPE_CHECKING:
    from torch import Tensor


class Joined:
    """Optimizers over disjoint parameters, stepped together.

    Args:
        parts: the optimizers, in the order in which they step.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, the very dictionaries, in a new list."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:
        """The states of all parts by parameter, the very ones, in a new dictionary."""
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def step(self) -> None:
        """Step each part."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


def parts(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimizers that a joined one is made of, or the only one."""
    return optimizer.parts if isinstance(optimizer, Joined) else (optimizer,)
