"""Shares: what ranks that divide parameters keep of them, and what they send in a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import nn

from modelwright.parallel.draft import Draft, Held, Spot
from modelwright.parallel.sharding.units import Units, units


@dataclass(frozen=True)
class Way:
    """How parameters are divided.

    Attributes:
        axis: of the ranks that do.
        stage: see :class:`~modelwright.parallel.layouts.shard.Shard`.
        replicas: axes along which gradients are summed with it.
    """

    axis: str
    stage: int
    replicas: Sequence[str]


def share_out(draft: Draft, spot: Spot, held: Sequence[Held], experts: Set[nn.Parameter], way: Way) -> None:
    """Note in a draft what becomes of that which ranks in a spot held.

    Args:
        draft: its model has these parameters.
        spot: where the ranks are.
        held: by each of them.
        experts: parameters that stay as they are.
        way: how the others are divided.
    """
    own, ranks = {each.parameter for each in held}, draft.sizes[way.axis]
    absent = set(draft.model.parameters()) - own
    found = units(draft.model, absent, experts - absent)
    _communicate(draft, spot, _groups(found, own), way)
    whole = [each.parameter for each in held if each.parameter in found.whole and each.parameter.requires_grad]
    _sum_whole(draft, spot, whole, way)
    for rank in range(ranks):
        at = (*spot, (way.axis, rank))
        draft.held[at] = [_kept(each, rank, ranks, each.parameter in found.whole, way.replicas) for each in held]


def _groups(found: Units, own: Set[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that are gathered together: what is outside of blocks, then each block's."""
    blocks = [[p for p in block.parameters() if p in own - found.outside - found.whole] for block in found.blocks]
    within = {parameter for block in blocks for parameter in block}
    return [[p for p in own if p not in within and p not in found.whole], *blocks]


def _communicate(draft: Draft, spot: Spot, groups: Sequence[Sequence[nn.Parameter]], way: Way) -> None:
    ranks = draft.sizes[way.axis]
    rest, *blocks = (_padded(group, ranks) for group in groups)
    trained = sum(_padded([p for p in group if p.requires_grad], ranks) for group in groups)
    everything = rest + sum(blocks)
    gathered = everything if way.stage < 3 else draft.rounds * (rest + 2 * sum(blocks))
    reduced = trained * (draft.rounds if way.stage > 1 else 1)
    draft.send("all-gather", (way.axis,), (ranks - 1) / ranks * gathered, spot)
    draft.send("reduce-scatter", (way.axis,), (ranks - 1) / ranks * reduced, spot)
    replicas = draft.group(way.replicas).size
    draft.send("all-reduce", way.replicas, 2 * (replicas - 1) / replicas * trained / ranks, spot)
    draft.gathered = max(draft.gathered, everything if way.stage < 3 else rest + max(blocks, default=0))


def _sum_whole(draft: Draft, spot: Spot, parameters: Iterable[nn.Parameter], way: Way) -> None:
    everyone = (way.axis, *way.replicas)
    group = draft.group(everyone)
    for parameter in parameters:
        group.all_reduce(parameter)
    draft.take(group, everyone, spot)


def _padded(parameters: Iterable[nn.Parameter], ranks: int) -> int:
    """Bytes where rows are filled up to be shared evenly."""
    return sum(math.ceil(p.shape[0] / ranks) * ranks * p[:1].nbytes for p in parameters)


def _kept(each: Held, rank: int, ranks: int, whole: bool, replicas: Sequence[str]) -> Held:
    over = tuple(axis for axis in each.over if axis not in replicas)
    if whole:
        return replace(each, over=over)
    parameter = each.parameter
    size = math.ceil(parameter.shape[0] / ranks)
    rows = max(0, min(size, parameter.shape[0] - rank * size))
    piece = torch.empty(rows, *parameter.shape[1:], dtype=parameter.dtype, device="meta")
    return replace(each, parameter=nn.Parameter(piece, parameter.requires_grad), over=over)
