"""Which units stay, given how much each matters: the same share of every class, or the best of all classes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from modelwright.compression.structure import UnitClass

Scope = Literal["layer", "global"]


def choose(
    classes: Sequence[UnitClass],
    scores: Mapping[int, Tensor],
    keep: float,
    *,
    scope: Scope = "layer",
    multiple: int = 1,
    needed: Mapping[int, Tensor] | None = None,
) -> dict[int, list[int]]:
    """The units that stay, by number of the class, ascending.

    Args:
        classes: from which units may go.
        scores: how much each unit matters.
        keep: which share of the units stays, of each class or of all together; at least one of each class.
        scope: ``layer``: the same share of every class; ``global``: scores are divided by their class's mean, and the
            lowest of all go.
        multiple: how many stay is a multiple of this, as far as there are so many.
        needed: by number of a class, bool ``[size]``: those that stay at any rate.
    """
    groups: dict[int, list[UnitClass]] = defaultdict(list)
    for each in classes:
        groups[each.together].append(each)
    counts = _equal(groups, keep) if scope == "layer" else _best(groups, scores, keep)
    least = {first: max(_needed(each, needed or {}) for each in members) for first, members in groups.items()}
    rounded = {first: _rounded(counts[first], groups[first][0].size, multiple, least[first]) for first in groups}
    return {each.number: _highest(scores[each.number], rounded[each.together]) for each in classes}


def _equal(groups: Mapping[int, list[UnitClass]], keep: float) -> dict[int, int]:
    return {first: max(1, math.floor(keep * members[0].size + 0.5)) for first, members in groups.items()}


def _best(groups: Mapping[int, list[UnitClass]], scores: Mapping[int, Tensor], keep: float) -> dict[int, int]:
    """How many stay of each: those that must keep equally many lose their lowest together."""
    ranked: list[tuple[float, int, int]] = []
    for first, members in groups.items():
        together = torch.stack([_relative(scores[each.number]) for each in members]).mean(0)
        ranked += [(value, first, place) for place, value in enumerate(together.tolist())]
    gone = sorted(ranked)[: round((1 - keep) * len(ranked))]
    counts = {first: members[0].size for first, members in groups.items()}
    for _, first, _ in gone:
        counts[first] = max(1, counts[first] - 1)
    return counts


def _relative(scores: Tensor) -> Tensor:
    mean = scores.double().mean()
    return scores.double().sort().values / (mean if mean > 0 else 1)


def _needed(found: UnitClass, needed: Mapping[int, Tensor]) -> int:
    return int(needed[found.number].sum()) if found.number in needed else 1


def _rounded(count: int, size: int, multiple: int, least: int) -> int:
    """The nearest multiple, at least one of them and at least as many as are needed, or all there are."""
    nearest = max(round(count / multiple), math.ceil(least / multiple), 1)
    return min(size, nearest * multiple)


def _highest(scores: Tensor, count: int) -> list[int]:
    """Places of the highest scores; of equal ones, the first."""
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())
