"""How pieces of tensors come together: along one dim, whose parts the ranks of a group hold in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modelwright.base.group import Group, Work
from modelwright.parallel.context.places import Places
from modelwright.parallel.dry import DryGroup

# Their newer names, where torch knows them already: there the older ones warn.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def gathered(piece: Tensor, group: Group) -> Tensor:
    """Every rank's ``piece``, ``[ranks, *shape]``."""
    if isinstance(group, DryGroup):
        return group.all_gather(piece)
    pieces = piece.new_empty((group.size, *piece.shape))
    if group.size == 1:
        return pieces.copy_(piece.unsqueeze(0))
    _all_gather(pieces.view(-1), piece.contiguous().view(-1), group=group.process_group)
    group.traffic.sent += (group.size - 1) * piece.nbytes
    return pieces


def sum_scattered(pieces: Tensor, group: Group) -> Tensor:
    """Of ``pieces [ranks, *shape]`` this rank's one, summed over the ranks."""
    if group.size == 1:
        return pieces[0]
    if isinstance(group, DryGroup):
        return group.reduce_scatter(pieces)
    total = torch.empty_like(pieces[0])
    _reduce_scatter(total.view(-1), pieces.contiguous().view(-1), group=group.process_group)
    group.traffic.sent += (group.size - 1) * total.nbytes
    return total


def rearranged(x: Tensor, dim: int, before: Places, after: Places, group: Group) -> Tensor:
    """The positions of another place: runs travel from who has them to who is to have them; differentiable."""
    if before == after:
        return x
    moved: Tensor = _Rearranged.apply(x, dim, before, after, group)  # type: ignore[no-untyped-call]
    return moved


class _Rearranged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, before: Places, after: Places, group: Group) -> Tensor:
        ctx.way = (dim, after, before, group)
        return _moved(x, dim, before, after, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _moved(upstream[0], *ctx.way), None, None, None, None


def _moved(x: Tensor, dim: int, before: Places, after: Places, group: Group) -> Tensor:
    length = min(before.length, after.length)
    mine, wanted = _parts(before, group.rank, length), _parts(after, group.rank, length)
    owner = {start: rank for rank in range(group.size) for start in _parts(before, rank, length)}
    taker = {start: rank for rank in range(group.size) for start in _parts(after, rank, length)}
    pieces = {start: x.narrow(dim, place * length, length).contiguous() for place, start in enumerate(mine)}
    arriving = {start: torch.empty_like(pieces[mine[0]]) for start in wanted if owner[start] != group.rank}
    # In order of time, so that ranks that exchange several parts agree.
    sent = [(pieces[start], taker[start]) for start in sorted(pieces) if taker[start] != group.rank]
    received = [(arriving[start], owner[start]) for start in sorted(arriving)]
    group.exchange(send=sent, receive=received).wait()
    return torch.cat([arriving.get(start, pieces.get(start)) for start in wanted], dim=dim)  # type: ignore[misc]


def _parts(places: Places, rank: int, length: int) -> list[int]:
    return [start + more for start in places.starts[rank] for more in range(0, places.length, length)]


class _Once:
    """Work that several wait for; the first does."""

    def __init__(self, work: Work, *_kept: object) -> None:
        self._work: Work | None = work
        self._kept = _kept  # what is sent must live until it is

    def wait(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.wait()
        self._kept = ()


class Passing:
    """Tensors that go round the ranks: each rank computes on those of another at a time while the next ones travel.

    The pieces of rank s go to s + 1, s + 2 and on, as far as anyone needs them. What is computed for them is summed
    up on the way by :meth:`add` and goes home from the last rank.

    Args:
        group: the ranks.
        hops: by rank, how many of the following ranks need its pieces.
    """

    def __init__(self, group: Group, hops: Sequence[int]) -> None:
        self._group, self._hops = group, hops
        self._travelling: list[tuple[_Once, list[Tensor]]] = []
        self._home: tuple[_Once, list[Tensor]] | None = None
        self._own: list[Tensor] = []
        self._under_way: list[_Once] = []

    def source(self, step: int) -> int:
        """Whose pieces this rank has at a step."""
        return (self._group.rank - step) % self._group.size

    def needs(self, step: int) -> bool:
        """Whether this rank has any at that step."""
        return step <= self._hops[self.source(step)]

    def following(self, step: int, pieces: Sequence[Tensor], like: Sequence[Tensor]) -> tuple[Work, list[Tensor]]:
        """Begin to pass ``pieces`` on and to receive those of the next step, which are shaped ``like``."""
        ahead, behind = self._neighbours()
        sends = [(piece, ahead) for piece in pieces if step < self._hops[self.source(step)]]
        news = [torch.empty_like(piece) for piece in like] if self._arrives(step + 1) else []
        return self._group.exchange(send=sends, receive=[(new, behind) for new in news]), news

    def add(self, step: int, gradients: Sequence[Tensor]) -> None:
        """Take in the gradients of a step's pieces, none where it had no pieces; every rank calls it each step."""
        if step == 0:
            self._own = [gradient.contiguous() for gradient in gradients]
            return
        sums = [gradient.contiguous() for gradient in gradients]
        if step > 1 and self._arrives(step):
            work, arrived = self._travelling.pop()
            work.wait()
            sums = [mine + other for mine, other in zip(sums, arrived, strict=True)]
        self._send_on(step, sums)

    def sums(self) -> list[Tensor]:
        """Of this rank's own pieces, over all ranks."""
        for work in self._under_way:
            work.wait()
        if self._home is None:
            return self._own
        _, arrived = self._home
        return [mine + other for mine, other in zip(self._own, arrived, strict=True)]

    def _send_on(self, step: int, sums: Sequence[Tensor]) -> None:
        group, source = self._group, self.source(step)
        ahead, behind = self._neighbours()
        goal = ahead if step < self._hops[source] else source
        news = [torch.empty_like(piece) for piece in self._own] if self._arrives(step + 1) else []
        home = [torch.empty_like(piece) for piece in self._own] if step == self._hops[group.rank] else []
        receives = [(new, behind) for new in news] + [(new, (group.rank + step) % group.size) for new in home]
        work = _Once(group.exchange(send=[(total, goal) for total in sums], receive=receives, tag=1), sums)
        self._under_way.append(work)
        if news:
            self._travelling.append((work, news))
        if home:
            self._home = (work, home)

    def _arrives(self, step: int) -> bool:
        return 0 < step < self._group.size and self.needs(step)

    def _neighbours(self) -> tuple[int, int]:
        return (self._group.rank + 1) % self._group.size, (self._group.rank - 1) % self._group.size
