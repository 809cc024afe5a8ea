"""All-reduce: the sums are the backend's own, which knows the machines (gloo, NCCL)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.base.group import Group, Work
from modelwright.parallel import Reduction
from modelwright.parallel.exchanges.bucketed import Synchronous
from modelwright.parallel.exchanges.pieces import in_pieces


@dataclass(frozen=True, kw_only=True)
class AllReduce(Synchronous):
    """Synchronous data parallelism by all-reduce, overlapped with the backward."""

    def reduction(self, group: Group) -> Reduction:
        """Over ``group``."""
        return BackendSum(group)


@dataclass(frozen=True)
class BackendSum:
    """Sums by the backend's all-reduce; of a shorter type, by pieces.

    The backend would round each partial sum where nobody sees it. So each rank gets one piece from all the others,
    sums it up in full and gives the sum to all: as many bytes as in a ring, and every number is rounded once a rank.
    """

    group: Group

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        """One reduction."""
        yield self.group.all_reduce(tensor, asynchronous=True)

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        """Every rank's pieces to those who sum them, and the sums to everybody."""
        group, rank = self.group, self.group.rank
        others = [other for other in range(group.size) if other != rank]
        pieces = in_pieces(tensor, group.size)
        short = pieces.to(wire)
        left_out = pieces - short
        came = torch.empty_like(short)
        send, receive = [(short[other], other) for other in others], [(came[other], other) for other in others]
        yield group.exchange(send=send, receive=receive, tag=number)
        total = pieces[rank].clone()
        for other in others:
            total += came[other]
        came[rank] = total
        left_out[rank] = total - came[rank]
        yield group.exchange(send=[(came[rank], other) for other in others], receive=receive, tag=number)
        tensor.copy_(came.view(-1)[: tensor.numel()])
        return left_out.view(-1)[: tensor.numel()]
