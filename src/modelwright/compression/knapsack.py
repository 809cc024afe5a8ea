"""One option for each item, at the least loss that a budget allows: a knapsack with a choice for each item."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError

Name = TypeVar("Name", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)

LIMIT = 20_000


@dataclass(frozen=True, kw_only=True)
class Option:
    """What an item may become.

    Attributes:
        cost: what it takes of the budget, such as bytes; at least 0.
        loss: what it does harm; negative where it does good.
    """

    cost: float
    loss: float

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and math.isfinite(self.cost) and math.isfinite(self.loss)):
            raise ModelwrightError(f"an option has a finite cost of at least 0 and a finite loss, not {self}")


def choose(items: Mapping[Item, Mapping[Name, Option]], budget: float, *, limit: int = LIMIT) -> dict[Item, Name]:
    """For each item one of its options: the sum of losses is least, and the sum of costs at most ``budget``.

    Of all sums only those are followed that no other beats in both. The choice is the best there is while these are no
    more than ``limit``; beyond, sums whose costs differ by less than ``1 / limit`` of the range count as one, so that
    time and memory stay bounded by ``limit`` times the number of options.

    Args:
        items: with their options by name.
        budget: for all costs together.
        limit: how many sums are followed.

    Raises:
        ModelwrightError: an item has no option, or even the cheapest ones cost more than the budget.
    """
    _check(items, budget)
    cheapest = [min(option.cost for option in options.values()) for options in items.values()]
    rest = np.append(np.cumsum(cheapest[::-1])[::-1], 0.0)
    frontier = _Frontier(np.zeros(1), np.zeros(1))
    history: list[_Frontier] = []
    for number, options in enumerate(items.values()):
        frontier = frontier.with_item(list(options.values()), budget - rest[number + 1], limit)
        history.append(frontier)
    return _traced_back(items, history, int(np.argmin(frontier.loss)))


def total(items: Mapping[Item, Mapping[Name, Option]], chosen: Mapping[Item, Name]) -> Option:
    """Cost and loss of a choice."""
    options = [items[item][name] for item, name in chosen.items()]
    return Option(cost=math.fsum(each.cost for each in options), loss=math.fsum(each.loss for each in options))


class _Frontier:
    """Sums that no other beats in cost and loss, by rising cost.

    Attributes:
        cost: ``[sums]``.
        loss: ``[sums]``, falling.
        before: which sum of the frontier before each was made of.
        option: which option of the item was added to it.
    """

    def __init__(
        self,
        cost: NDArray[np.float64],
        loss: NDArray[np.float64],
        before: NDArray[np.int64] | None = None,
        option: NDArray[np.int64] | None = None,
    ) -> None:
        self.cost, self.loss = cost, loss
        self.before = np.zeros(len(cost), np.int64) if before is None else before
        self.option = np.zeros(len(cost), np.int64) if option is None else option

    def with_item(self, options: Sequence[Option], room: float, limit: int) -> _Frontier:
        """One item more, with costs up to ``room``."""
        cost = np.concatenate([self.cost + each.cost for each in options])
        loss = np.concatenate([self.loss + each.loss for each in options])
        before = np.tile(np.arange(len(self.cost)), len(options))
        option = np.repeat(np.arange(len(options)), len(self.cost))
        # What rounding adds to a sum of costs must not forbid the cheapest ones.
        order = np.lexsort((loss, cost))
        order = order[cost[order] <= max(room, cost[order[0]])]
        lowest = np.minimum.accumulate(loss[order])
        order = order[np.append(True, loss[order][1:] < lowest[:-1])]
        order = order[_thinned(cost[order], limit)]
        return _Frontier(cost[order], loss[order], before[order], option[order])


def _thinned(cost: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Places of the sums to follow: all, or the first and the last of each cell, which has the least loss in it."""
    if len(cost) <= limit:
        return np.arange(len(cost))
    cells = ((cost - cost[0]) / (cost[-1] - cost[0]) * (limit - 1)).astype(np.int64)
    last = np.append(cells[1:] != cells[:-1], True)
    last[0] = True
    return np.flatnonzero(last)


def _traced_back(
    items: Mapping[Item, Mapping[Name, Option]], history: Sequence[_Frontier], place: int
) -> dict[Item, Name]:
    chosen: dict[Item, Name] = {}
    for (item, options), frontier in zip(reversed([*items.items()]), reversed(history), strict=True):
        chosen[item] = list(options)[int(frontier.option[place])]
        place = int(frontier.before[place])
    return {item: chosen[item] for item in items}


def _check(items: Mapping[Item, Mapping[Name, Option]], budget: float) -> None:
    for item, options in items.items():
        if not options:
            raise ModelwrightError("nothing can be chosen: it has no option", where=str(item))
    least = math.fsum(min(option.cost for option in options.values()) for options in items.values())
    if least > budget * (1 + 1e-12):
        raise ModelwrightError(
            f"the budget of {budget:.10g} cannot be met: the cheapest options cost {least:.10g} together",
            remedy="raise the budget, or give cheaper options",
        )
