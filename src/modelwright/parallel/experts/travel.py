"""How tokens travel between ranks: by all-to-all, in numbers that differ from rank to rank and step to step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modelwright.base.group import Group
from modelwright.models.experts import Compute, in_order
from modelwright.parallel.dry import DryGroup


class Travel:
    """Takes rows to the ranks that hold their experts, has them computed there, and brings them back.

    Every rank of the group must come here equally often, be it with no row.

    Args:
        group: the ranks; rank r holds the r-th equal share of the experts.
    """

    def __init__(self, group: Group) -> None:
        self.group = group

    def __deepcopy__(self, memo: object) -> Travel:
        return self  # a copy of a model travels with the same ranks

    def __call__(self, rows: Tensor, sizes: Tensor, compute: Compute) -> Tensor:
        """``rows [rows, width]`` in the order of all experts, ``sizes [experts]`` -> the same shape."""
        leaving = sizes.view(self.group.size, -1)
        if isinstance(self.group, DryGroup):
            self.group.all_to_all(leaving)  # the numbers of rows
            there: Tensor = _Dry.apply(rows, self.group)  # type: ignore[no-untyped-call]
            return _Dry.apply(compute(there, leaving.sum(0)), self.group)  # type: ignore[no-any-return, no-untyped-call]
        if rows.is_meta:  # nobody knows: as many come as leave
            return compute(rows, leaving.sum(0))
        coming = torch.empty_like(leaving)  # [ranks, experts held here]
        exchanged(coming, leaving.contiguous(), self.group)
        out, back = _totals(leaving, coming)
        arrived: Tensor = _Exchanged.apply(rows, out, back, self.group)  # type: ignore[no-untyped-call]
        order = _by_expert(coming, len(arrived))
        done = compute(in_order(arrived, order), coming.sum(0))
        return _Exchanged.apply(in_order(done, order.argsort()), back, out, self.group)  # type: ignore[no-any-return, no-untyped-call]


def _totals(leaving: Tensor, coming: Tensor) -> tuple[list[int], list[int]]:
    """Rows to and from each rank; a device is waited for once."""
    out, back = torch.stack((leaving.sum(1), coming.sum(1))).tolist()
    return out, back


def _by_expert(coming: Tensor, rows: int) -> Tensor:
    """The order of rows that came rank by rank, and within a rank expert by expert: all of an expert together."""
    ranks, experts = coming.shape
    kinds = torch.arange(experts, device=coming.device).repeat(ranks)
    return kinds.repeat_interleave(coming.flatten(), output_size=rows).argsort(stable=True)


class _Exchanged(torch.autograd.Function):
    """Rows by all-to-all: ``out`` to each rank, ``back`` from each; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, out: list[int], back: list[int], group: Group) -> Tensor:
        ctx.counts = out, back, group
        return _moved(rows, out, back, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        out, back, group = ctx.counts
        return _moved(gradient, back, out, group), None, None, None


class _Dry(torch.autograd.Function):
    """As many rows come as leave, evenly to and from all ranks; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: DryGroup) -> Tensor:
        ctx.group = group
        return group.all_to_all(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_to_all(gradient), None


def _moved(rows: Tensor, out: list[int], back: list[int], group: Group) -> Tensor:
    arrived = rows.new_empty(sum(back), *rows.shape[1:])
    exchanged(arrived, rows.contiguous(), group, out, back)
    return arrived


def exchanged(
    arrived: Tensor, rows: Tensor, group: Group, out: list[int] | None = None, back: list[int] | None = None
) -> None:
    """Overwrite ``arrived`` with what the ranks sent here; bytes that leave the rank are counted.

    Args:
        arrived: contiguous, rank by rank.
        rows: contiguous, by the rank they go to.
        group: the ranks.
        out: rows to each rank; ``None``: as many to all.
        back: rows from each.
    """
    if group.size == 1:
        arrived.copy_(rows)
        return
    stays = len(rows) // group.size if out is None else out[group.rank]
    group.traffic.sent += (len(rows) - stays) * rows[:1].nbytes
    dist.all_to_all_single(arrived, rows, back, out, group=group.process_group)
