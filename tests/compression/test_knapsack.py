from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modelwright.base.errors import ModelwrightError
from modelwright.compression.knapsack import Option, choose, total

Items = dict[str, dict[str, Option]]

OPTIONS = some.builds(
    Option,
    cost=some.integers(0, 30).map(float),
    loss=some.floats(-5, 5, allow_nan=False).map(lambda value: round(value, 3)),
)
ITEMS = some.dictionaries(
    some.sampled_from("abcde"), some.dictionaries(some.sampled_from("wxyz"), OPTIONS, min_size=1), min_size=1
)


def best_of_all(items: Items, budget: float) -> float:
    losses = [
        math.fsum(option.loss for option in options)
        for options in itertools.product(*(each.values() for each in items.values()))
        if sum(option.cost for option in options) <= budget
    ]
    return min(losses, default=math.inf)


@given(ITEMS, some.integers(0, 150))
def test_no_choice_is_better(items: Items, budget: int) -> None:
    best = best_of_all(items, budget)
    if best == math.inf:
        with pytest.raises(ModelwrightError, match="cannot be met"):
            choose(items, budget)
        return
    found = total(items, choose(items, budget))
    assert found.cost <= budget
    assert found.loss == pytest.approx(best, abs=1e-9)


@given(ITEMS, some.integers(0, 150), some.integers(2, 6))
def test_with_few_sums_the_budget_holds_still(items: Items, budget: int, limit: int) -> None:
    if best_of_all(items, budget) < math.inf:
        assert total(items, choose(items, budget, limit=limit)).cost <= budget


def test_many_items_stay_near_the_best() -> None:
    items = {
        f"layer {number}": {
            bits: Option(cost=(977 + 13 * number) * bits, loss=(1 + number % 7) * 4.0**-bits) for bits in (2, 4, 8, 16)
        }
        for number in range(100)
    }
    budget = 6 * sum(977 + 13 * number for number in range(100))
    exact = total(items, choose(items, budget, limit=10**6))
    thinned = total(items, choose(items, budget, limit=500))
    uniform = sum(items[each][4].loss for each in items)
    assert thinned.cost <= budget
    assert exact.loss <= thinned.loss <= exact.loss * 1.05
    assert exact.loss < uniform / 2  # the same bits for all are worse by far


def test_an_item_without_options_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="no option"):
        choose({"head": {}}, 10)


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="finite loss"):
        Option(cost=1, loss=math.nan)
