"""Central: one rank receives all gradients, sums them up and sends the sums to all; a parameter server's traffic.

The buckets take turns, so that each rank is the centre of some (Li et al., OSDI 2014, "Scaling Distributed Machine
Learning with the Parameter Server", shards its servers so): with enough buckets nobody is a bottleneck.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelwright.base.group import Group, Work
from modelwright.parallel import Reduction
from modelwright.parallel.exchanges.bucketed import Synchronous
from modelwright.parallel.exchanges.pieces import shortened


@dataclass(frozen=True, kw_only=True)
class Central(Synchronous):
    """Synchronous data parallelism by way of one rank; the way there is hidden by the backward."""

    alike: ClassVar[bool] = False

    def reduction(self, group: Group) -> Reduction:
        """Over ``group``."""
        return CentralSum(group)


@dataclass(frozen=True)
class CentralSum:
    """Sums bucket ``number`` on rank ``number % ranks``, in the order of the ranks."""

    group: Group

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        """There and back."""
        yield from self._way(tensor, number, None)

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        """The same; the centre rounds the sum, the others what they send."""
        left_out = yield from self._way(tensor, number, wire)
        assert left_out is not None
        return left_out

    def _way(self, tensor: Tensor, number: int, wire: torch.dtype | None) -> Generator[Work, None, Tensor | None]:
        centre = number % self.group.size
        if self.group.rank == centre:
            return (yield from self._as_centre(tensor, number, wire))
        short, left_out = shortened(tensor, wire)
        yield self.group.exchange(send=[(short, centre)], tag=number)
        came = torch.empty_like(short)
        yield self.group.exchange(receive=[(came, centre)], tag=number)
        tensor.copy_(came)
        return left_out

    def _as_centre(self, tensor: Tensor, number: int, wire: torch.dtype | None) -> Generator[Work, None, Tensor | None]:
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        came = [torch.empty_like(tensor, dtype=wire) for _ in others]
        yield self.group.exchange(receive=list(zip(came, others, strict=True)), tag=number)
        for piece in came:
            tensor += piece
        short, left_out = shortened(tensor, wire)
        yield self.group.exchange(send=[(short, other) for other in others], tag=number)
        if wire is not None:
            tensor.copy_(short)
        return left_out
