"""Optimizers of our own, written over lists of tensors for torch's multi-tensor operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class ListOptimizer(torch.optim.Optimizer):
    """Updates lists of tensors that have device and dtype in common.

    A subclass says in :meth:`update` how; ``state_keys`` are the names of what it keeps per parameter.
    """

    state_keys: ClassVar[frozenset[str]] = frozenset()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            for parameters in alike(parameter for parameter in group["params"] if parameter.grad is not None):
                self.update(parameters, [p.grad for p in parameters if p.grad is not None], group)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Update ``parameters`` in place; their ``gradients`` stay as they are."""
        raise NotImplementedError

    def kept(self, parameters: Iterable[Tensor], key: str) -> list[Tensor]:
        """The state ``key`` of each parameter, zeros at first."""
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if key not in state:
                state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
        return [state[key] for state in states]


def alike(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """``tensors`` by device and dtype: the multi-tensor kernels need them alike to be fast."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.device, tensor.dtype].append(tensor)
    return groups.values()
