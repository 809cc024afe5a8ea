"""Attention whose time dim is divided over the ranks of a group: a ring, or gathered keys and values.

*ring* passes keys and values from rank to rank while blocks of scores are computed, and joins the blocks by their
log-sum-exp (Liu et al. 2023, "Ring Attention with Blockwise Transformers", arXiv:2310.01889). *all-gather* collects all
keys and values first, in two messages (Llama 3: Grattafiori et al. 2024, arXiv:2407.21783). Both keep this rank's part
of them only between forward and backward, and one block of scores at most.

In causal attention the later ranks have more to do where each holds one run of positions. ``balanced`` exchanges parts
before and after, so that each computes an early and a late one, and all have equal work; it costs once more the bytes
of query, key, value and output of a rank, so it pays for long sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from modelwright.base.group import Group
from modelwright.parallel.context.kernels import Found, Gradients, Sight, kernel_for
from modelwright.parallel.context.moves import Passing, gathered, rearranged, sum_scattered
from modelwright.parallel.context.places import Places, diagonal, hidden
from modelwright.parallel.dry import DryGroup

Way = Literal["ring", "all-gather"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Group,
    *,
    way: Way = "ring",
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    balanced: bool = False,
) -> Tensor:
    """Attention of this rank's queries to the keys of all ranks; differentiable once. A collective.

    Args:
        query: this rank's part ``[batch, heads, time / ranks, width]``; parts are in the order of ranks.
        key: this rank's part ``[batch, kv_heads, source / ranks, width]``; ``kv_heads`` divides ``heads``.
        value: as ``key``; its width may be another.
        group: the ranks.
        way: how keys and values travel.
        causal: position t sees the positions up to t.
        mask: rows of this rank's queries for the keys of all ranks, broadcasts to
            ``[batch, heads, time / ranks, source]``: bool (false is hidden), or added to the scores.
        scale: of the scores; ``None``: ``width ** -0.5``.
        dropout: of the shares in which values are mixed.
        seed: of the dropout, the same on all ranks of the group.
        balanced: let each rank compute an early and a late part of a causal sequence; not where those do not divide.

    Returns:
        This rank's part of the outputs ``[batch, heads, time / ranks, value's width]``.
    """
    scale = query.size(-1) ** -0.5 if scale is None else scale
    asked = Places.contiguous(query.size(2) * group.size, group.size)
    read = Places.contiguous(key.size(2) * group.size, group.size)
    even = query.size(2) % 2 == 0 and key.size(2) % 2 == 0
    if not (balanced and causal and even and group.size > 1):
        plan = _Plan(group, way, causal, scale, dropout, seed, asked, read)
        return _applied(query, key, value, mask, plan)
    plan = _Plan(group, way, causal, scale, dropout, seed, _zigzag(asked, group), _zigzag(read, group))
    query = rearranged(query, 2, asked, plan.asked, group)
    key, value = (rearranged(x, 2, read, plan.read, group) for x in (key, value))
    if mask is not None and mask.size(-2) > 1:
        mask = _rows(mask, asked, plan.asked, group)
    return rearranged(_applied(query, key, value, mask, plan), 2, plan.asked, asked, group)


def attention_from(
    begin: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Attention of some queries, from position ``begin`` on, to keys that this rank has all of; nothing travels.

    See :func:`attention` for the arguments; gradients by key and value are those of these queries only.
    """
    scale = query.size(-1) ** -0.5 if scale is None else scale
    asked = Places(starts=((begin,),), length=query.size(2))
    read = Places.contiguous(key.size(2), 1)
    plan = _Plan(Group(0, 1), "ring", causal, scale, dropout, seed, asked, read)
    return _applied(query, key, value, mask, plan)


@dataclass(frozen=True)
class _Plan:
    group: Group
    way: Way
    causal: bool
    scale: float
    dropout: float
    seed: int
    asked: Places
    read: Places

    def blocks(self, source: int, mask: Tensor | None) -> Iterator[tuple[slice, slice, Sight, slice]]:
        """This rank's blocks with the keys of ``source``: where in both memories, what is seen, where in time."""
        if isinstance(self.group, DryGroup):
            return
        for rows, queries in self.asked.runs(self.group.rank):
            for columns, keys in self.read.runs(source):
                if self.causal and hidden(queries, keys):
                    continue
                sight = Sight(
                    scale=self.scale,
                    diagonal=diagonal(queries, keys) if self.causal else None,
                    mask=None if mask is None else _part(mask, rows, keys),
                    dropout=self.dropout,
                    seed=hash((self.seed, queries.start, keys.start)) % 2**63,
                )
                yield rows, columns, sight, keys

    def hops(self) -> list[int]:
        """By rank, how many of the ranks behind it see its keys."""
        return [max(self._seen_at(source), default=0) for source in range(self.group.size)]

    def _seen_at(self, source: int) -> Iterator[int]:
        for hop in range(1, self.group.size):
            rank = (source + hop) % self.group.size
            pairs = ((q, k) for _, q in self.asked.runs(rank) for _, k in self.read.runs(source))
            if not self.causal or any(not hidden(q, k) for q, k in pairs):
                yield hop


class _Merged:
    """Outputs of blocks joined by their log-sum-exp."""

    def __init__(self, query: Tensor, value: Tensor) -> None:
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        self.outputs = query.new_zeros((*query.shape[:-1], value.size(-1)), dtype=wide)
        self.sums = query.new_full(query.shape[:-1], -torch.inf, dtype=wide)
        self.rest: tuple[Any, ...] = ()

    def take(self, rows: slice, found: Found) -> None:
        before, outputs = self.sums[:, :, rows], self.outputs[:, :, rows]
        total = torch.logaddexp(before, found.sums)
        base = total.masked_fill(total == -torch.inf, 0)  # where nothing is seen yet
        outputs.mul_((before - base).exp().unsqueeze(-1))
        outputs.add_(found.outputs * (found.sums - base).exp().unsqueeze(-1))
        before.copy_(total)
        self.rest = found.rest


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, plan: _Plan) -> Tensor:
        merged = _Merged(query, value)
        for _, source, pieces in _arrivals(plan, key, value):
            for rows, columns, sight, _ in plan.blocks(source, mask):
                block = query[:, :, rows], pieces[0][:, :, columns], pieces[1][:, :, columns]
                merged.take(rows, kernel_for(*block, sight).forward(*block, sight))
        outputs = merged.outputs.to(query.dtype)
        ctx.save_for_backward(query, key, value, mask, outputs, merged.sums)
        ctx.plan, ctx.rest = plan, merged.rest
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, outputs, sums = ctx.saved_tensors
        plan: _Plan = ctx.plan
        whole = Found(outputs, sums, ctx.rest)
        by_query = torch.zeros_like(query, dtype=sums.dtype)
        by_mask = torch.zeros_like(mask) if mask is not None and ctx.needs_input_grad[3] else None
        home = _home(plan, key, value)
        for step, source, pieces in _arrivals(plan, key, value):
            by_pieces = [torch.zeros_like(piece, dtype=sums.dtype) for piece in pieces]
            for rows, columns, sight, keys in plan.blocks(source, mask) if pieces else ():
                found = _block_gradients(upstream[0], query, pieces, whole, rows, columns, sight)
                by_query[:, :, rows] += found.query
                by_pieces[0][:, :, columns] += found.key
                by_pieces[1][:, :, columns] += found.value
                if by_mask is not None and found.mask is not None:
                    part = _part(by_mask, rows, keys)
                    part += found.mask.reshape(part.shape)
            home.add(step, by_pieces)
        by_key, by_value = home.sums()
        return by_query.to(query.dtype), by_key.to(key.dtype), by_value.to(value.dtype), by_mask, None


def _applied(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, plan: _Plan) -> Tensor:
    outputs: Tensor = _Attention.apply(query, key, value, mask, plan)  # type: ignore[no-untyped-call]
    return outputs


def _block_gradients(
    upstream: Tensor, query: Tensor, pieces: list[Tensor], whole: Found, rows: slice, columns: slice, sight: Sight
) -> Gradients:
    block = query[:, :, rows], pieces[0][:, :, columns], pieces[1][:, :, columns]
    part = Found(whole.outputs[:, :, rows], whole.sums[:, :, rows], whole.rest)
    return kernel_for(*block, sight).backward(upstream[:, :, rows], *block, part, sight)


def _arrivals(plan: _Plan, key: Tensor, value: Tensor) -> Iterator[tuple[int, int, list[Tensor]]]:
    """By step: whose keys and values these are, and those; none of them where no query sees any."""
    if plan.way == "all-gather":
        keys, values = gathered(key, plan.group), gathered(value, plan.group)
        for source in range(plan.group.size):
            yield source, source, [keys[source], values[source]]
        return
    passing, own = Passing(plan.group, plan.hops()), [key.contiguous(), value.contiguous()]
    pieces = own
    for step in range(plan.group.size):
        work, following = passing.following(step, pieces, own)
        yield step, passing.source(step), pieces
        work.wait()
        pieces = following


def _home(plan: _Plan, key: Tensor, value: Tensor) -> Passing | _Scattering:
    return Passing(plan.group, plan.hops()) if plan.way == "ring" else _Scattering(plan.group)


class _Scattering:
    """Gradients of all ranks' pieces, summed at the end."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._gradients: list[list[Tensor]] = []

    def add(self, step: int, gradients: list[Tensor]) -> None:
        self._gradients.append(gradients)

    def sums(self) -> list[Tensor]:
        return [sum_scattered(torch.stack(each), self._group) for each in zip(*self._gradients, strict=True)]


def _part(mask: Tensor, rows: slice, keys: slice) -> Tensor:
    mask = mask[..., rows, :] if mask.size(-2) > 1 else mask
    return mask[..., keys] if mask.size(-1) > 1 else mask


def _zigzag(places: Places, group: Group) -> Places:
    return Places.zigzag(places.length * group.size, group.size)


def _rows(mask: Tensor, before: Places, after: Places, group: Group) -> Tensor:
    if mask.dtype != torch.bool:
        return rearranged(mask, mask.dim() - 2, before, after, group)
    return rearranged(mask.to(torch.uint8), mask.dim() - 2, before, after, group).bool()
