"""Recomputation to a size: as little of it as lets the activations of a micro-batch fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.units import bytes_text
from modelwright.parallel.recompute.choosing import KINDS, Price, Prices, cheapest, leanest
from modelwright.parallel.recompute.probing import Probed, probe_forward
from modelwright.parallel.recompute.wrapping import forget, wrap

_TRIES = 8


def fit(
    model: nn.Module, blocks: Sequence[str], budget: int, probe: Callable[[], object], group: Group
) -> dict[str, str]:
    """Let blocks of ``model`` recompute, in place, until what a forward keeps for its backward fits in the budget.

    Forwards are run and measured, first with each kind for all blocks, then with the choice: that sums of parts err
    does not matter. While a block is computed again in the backward, it needs its memory on top.

    Returns:
        The kind of each block.

    Raises:
        ModelwrightError: it cannot fit, with the least that is possible.
    """

    def measured(kinds: Sequence[str]) -> Probed:
        _put(model, dict(zip(blocks, kinds, strict=True)))
        return probe_forward(model, blocks, probe, group)

    without = measured(["none"] * len(blocks))
    if without.total <= budget:
        return dict.fromkeys(blocks, "none")
    alike = {"none": without, **{kind: measured([kind] * len(blocks)) for kind in ("selective", "full")}}
    prices = [_prices(alike, name) for name in blocks]
    room = budget - max(probed.kept[""] for probed in alike.values())
    least = without.total
    for _ in range(_TRIES):
        kinds = cheapest(prices, room) or leanest(prices)
        found = measured(kinds).total
        least = min(least, found)
        if found <= budget:
            choice = dict(zip(blocks, kinds, strict=True))
            _tell(choice, found, budget, without.total, group)
            return choice
        if kinds == leanest(prices):
            break
        room -= found - budget
    raise _too_small(budget, least)


def _prices(alike: Mapping[str, Probed], name: str) -> Prices:
    none = alike["none"]
    work = {"none": 0, "selective": none.light[name], "full": none.work[name]}
    return {kind: Price(alike[kind].kept[name], work[kind]) for kind in KINDS}


def _put(model: nn.Module, choice: Mapping[str, str]) -> None:
    forget(model)
    for name, kind in choice.items():
        if kind != "none":
            wrap(model.get_submodule(name), kind)


def _tell(choice: Mapping[str, str], kept: int, budget: int, before: int, group: Group) -> None:
    if group.rank:
        return
    numbers = Counter(choice.values())
    listed = ", ".join(f"{numbers[kind]} {kind}" for kind in KINDS if numbers[kind])
    emit(
        "recompute-budget",
        f"activations of a micro-batch take {bytes_text(kept)} of {bytes_text(budget)}, without recomputation "
        f"{bytes_text(before)}; blocks recomputed: {listed}",
        kept=kept,
        budget=budget,
        without=before,
        blocks=dict(choice),
    )


def _too_small(budget: int, least: int) -> ModelwrightError:
    return ModelwrightError(
        f"the activations of a micro-batch do not fit in {bytes_text(budget)}: they take at least {bytes_text(least)}, "
        "with all blocks recomputed",
        where="plan.recompute",
        remedy=f"allow {bytes_text(least)} or more, or choose a smaller plan.micro_batch",
    )
