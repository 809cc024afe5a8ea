"""Parameters that several stages hold: their gradients are summed over these stages, once a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from modelwright.base.group import Group
from modelwright.parallel import Exchange

Holders = Mapping[nn.Parameter, tuple[int, ...]]
"""Ranks of the pipeline axis that hold a parameter, in order; two or more."""


class TiedSums:
    """An exchange that also sums over the pipeline axis.

    Args:
        inner: the exchange between replicas.
        group: the pipeline axis.
        holders: in the same order on every rank.
    """

    def __init__(self, inner: Exchange, group: Group, holders: Holders) -> None:
        self.inner, self.group, self.holders = inner, group, holders

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """To the exchange between replicas."""
        self.inner.attach(parameters)

    def backward(self, last: bool) -> AbstractContextManager[None]:
        """That of the exchange between replicas."""
        return self.inner.backward(last)

    def before_step(self) -> None:
        """The sum over replicas, then over the stages that hold a parameter, in the order of their ranks."""
        self.inner.before_step()
        for parameter, ranks in self.holders.items():
            self._sum(parameter, ranks)

    def after_step(self, masked: Tensor | bool = False) -> None:
        """That of the exchange between replicas."""
        self.inner.after_step(masked)

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """That of the exchange between replicas."""
        return self.inner.state(names)

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """For the exchange between replicas."""
        self.inner.load(states, names, rank)

    def _sum(self, parameter: nn.Parameter, ranks: tuple[int, ...]) -> None:
        """One number more says whether there is a gradient at all: what nobody used stays without."""
        mine = torch.zeros(parameter.numel() + 1, dtype=parameter.dtype, device=parameter.device)
        if parameter.grad is not None:
            mine[:-1] = parameter.grad.flatten()
            mine[-1] = 1
        others = [rank for rank in ranks if rank != self.group.rank]
        came = {rank: torch.empty_like(mine) for rank in others}
        self.group.exchange(
            send=[(mine, rank) for rank in others], receive=[(came[rank], rank) for rank in others]
        ).wait()
        came[self.group.rank] = mine
        total = came[ranks[0]]
        for rank in ranks[1:]:
            total = total + came[rank]
        if total[-1] > 0:
            gradient = total[:-1].view_as(parameter)
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(gradient)
