"""Which blocks to recompute: the least work that frees enough, a knapsack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KINDS = ("full", "selective", "none")
_GRAINS = 4096


@dataclass(frozen=True)
class Price:
    """What a block keeps and computes again under one kind of recomputation.

    Attributes:
        kept: bytes.
        work: floating-point operations done twice.
    """

    kept: int
    work: int


Prices = Mapping[str, Price]
"""By kind."""


@dataclass(frozen=True)
class _Path:
    work: int
    kind: str
    before: _Path | None


def cheapest(blocks: Sequence[Prices], room: int) -> list[str] | None:
    """The kind of each block, with the least work among those that keep at most ``room`` bytes; ``None``: none does.

    Bytes are rounded up to a 4096th of the room. Of blocks alike, earlier ones are recomputed more: when the backward
    comes to them, what the later ones kept is gone, and there is room for a whole block.
    """
    if room < 0:
        return None
    grain = max(1, room // _GRAINS)
    front: dict[int, _Path] = {0: _Path(0, "", None)}
    for prices in blocks:
        front = _pruned(_longer(front, prices, grain, room))
    if not front:
        return None
    best = min(front.values(), key=lambda path: path.work)
    return _arranged(blocks, _kinds(best))


def leanest(blocks: Sequence[Prices]) -> list[str]:
    """What keeps least."""
    return [min(prices, key=lambda kind: (prices[kind].kept, prices[kind].work)) for prices in blocks]


def _longer(front: Mapping[int, _Path], prices: Prices, grain: int, room: int) -> dict[int, _Path]:
    longer: dict[int, _Path] = {}
    for kept, path in front.items():
        for kind, price in prices.items():
            sum_kept, work = kept + -(-price.kept // grain) * grain, path.work + price.work
            if sum_kept <= room and (sum_kept not in longer or work < longer[sum_kept].work):
                longer[sum_kept] = _Path(work, kind, path)
    return longer


def _pruned(front: Mapping[int, _Path]) -> dict[int, _Path]:
    """Without those that keep more than another and work no less."""
    pruned: dict[int, _Path] = {}
    least: int | None = None
    for kept in sorted(front):
        if least is None or front[kept].work < least:
            pruned[kept], least = front[kept], front[kept].work
    return pruned


def _kinds(path: _Path) -> list[str]:
    kinds: list[str] = []
    while path.before is not None:
        kinds.append(path.kind)
        path = path.before
    return kinds[::-1]


def _arranged(blocks: Sequence[Prices], kinds: list[str]) -> list[str]:
    alike: dict[tuple[tuple[str, Price], ...], list[int]] = defaultdict(list)
    for number, prices in enumerate(blocks):
        alike[tuple(sorted(prices.items(), key=lambda item: item[0]))].append(number)
    arranged = list(kinds)
    for numbers in alike.values():
        for number, kind in zip(numbers, sorted((kinds[n] for n in numbers), key=KINDS.index), strict=True):
            arranged[number] = kind
    return arranged
