"""Ring: every rank sends to the next one alone, so each sends 2 (ranks - 1) / ranks of the gradients, however many.

The bandwidth-optimal all-reduce of Patarasuk and Yuan (JPDC 2009, "Bandwidth Optimal All-reduce Algorithms for
Clusters of Workstations"), written out in sends: the reference for the backends' own, with traffic that is counted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.group import Group, Work
from modelwright.parallel import Reduction
from modelwright.parallel.exchanges.bucketed import Synchronous
from modelwright.parallel.exchanges.pieces import in_pieces, shortened


@dataclass(frozen=True, kw_only=True)
class Ring(Synchronous):
    """Synchronous data parallelism by sums that go round a ring; only the first round is hidden by the backward."""

    def reduction(self, group: Group) -> Reduction:
        """Over ``group``."""
        return RingSum(group)


@dataclass(frozen=True)
class RingSum:
    """Partial sums of pieces go round once, until each rank has one whole sum; then the sums go round."""

    group: Group

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        """2 (ranks - 1) rounds, in each of which a piece is sent and another received."""
        yield from self._around(tensor, number, None)

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        """The same; what a rank's roundings of partial sums and of its whole sum left out stays with it."""
        left_out = yield from self._around(tensor, number, wire)
        return left_out[: tensor.numel()]

    def _around(self, tensor: Tensor, number: int, wire: torch.dtype | None) -> Generator[Work, None, Tensor]:
        rank, size = self.group.rank, self.group.size
        pieces = in_pieces(tensor, size)
        left_out = pieces.new_empty(pieces.shape if wire is not None else 0)
        for turn in range(size):
            mine = (rank - turn) % size
            short, rest = shortened(pieces[mine], wire)
            if rest is not None:
                left_out[mine] = rest
            if turn < size - 1:
                came = torch.empty_like(short)
                yield self._pass_on(short, came, number)
                pieces[mine - 1] += came
        for turn in range(size):  # what was shortened last is the whole sum of that piece
            pieces[(rank + 1 - turn) % size] = short
            if turn < size - 1:
                came = torch.empty_like(short)
                yield self._pass_on(short, came, number)
                short = came
        if pieces.data_ptr() != tensor.data_ptr():
            tensor.copy_(pieces.view(-1)[: tensor.numel()])
        return left_out.view(-1)

    def _pass_on(self, short: Tensor, came: Tensor, number: int) -> Work:
        rank, size = self.group.rank, self.group.size
        return self.group.exchange(send=[(short, (rank + 1) % size)], receive=[(came, (rank - 1) % size)], tag=number)
