from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.reforms.ranks import Options, by_budget, by_energy, by_error, by_rank
from modelwright.reforms.rule import RankRule


def layer(name: str, outputs: int, columns: int, energies: Sequence[float], multiple: int = 1) -> Options:
    left = np.concatenate([np.cumsum(np.sort(energies))[::-1], [0.0]])
    return Options(
        name=name,
        parameters=outputs * columns,
        whole=outputs * columns,
        per_rank=outputs + columns,
        losses=left / left[0],
        multiple=multiple,
    )


def sizes(layers: Sequence[Options], ranks: dict[str, int | None]) -> int:
    return sum(each.size(ranks[each.name]) for each in layers)


def loss(layers: Sequence[Options], ranks: dict[str, int | None]) -> float:
    return sum(each.loss(ranks[each.name]) for each in layers)


def best(layers: Sequence[Options], budget: int) -> float:
    """The least loss of all choices there are."""
    choices = [[*each.ranks(), None] for each in layers]
    possible = [
        dict(zip((each.name for each in layers), chosen, strict=True)) for chosen in itertools.product(*choices)
    ]
    return min((loss(layers, each) for each in possible if sizes(layers, each) <= budget), default=np.inf)


spectra = st.lists(st.floats(0.01, 1.0), min_size=4, max_size=5)
models = st.lists(st.tuples(st.integers(5, 9), spectra), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(models, st.floats(0.3, 1.2))
def test_a_budget_is_kept_and_no_choice_is_better_by_more_than_one_step(
    model: list[tuple[int, list[float]]], share: float
) -> None:
    layers = [layer(str(at), outputs, len(energies), energies) for at, (outputs, energies) in enumerate(model)]
    budget = round(share * sum(each.full for each in layers))
    least = sum(min([each.size(rank) for rank in each.ranks()], default=each.full) for each in layers)
    if least > budget:
        with pytest.raises(ModelwrightError, match="cannot have less"):
            by_budget(layers, budget)
        return
    ranks = by_budget(layers, budget)
    assert sizes(layers, ranks) <= budget
    largest_step = max(each.full - each.size(min(each.ranks(), default=None)) for each in layers)
    assert loss(layers, ranks) >= best(layers, budget) - 1e-12
    assert loss(layers, ranks) <= best(layers, budget - largest_step) + 1e-12
    # What a budget of exactly this size can do is found.
    if each_step_fits(layers, ranks, sizes(layers, ranks)):
        assert loss(layers, ranks) == pytest.approx(best(layers, sizes(layers, ranks)), abs=1e-12)


def each_step_fits(layers: Sequence[Options], ranks: dict[str, int | None], budget: int) -> bool:
    """Whether one price per weight explains the choice: then it is the best of its size (Everett 1963)."""
    low, high = 0.0, np.inf
    for each in layers:
        size, left = each.size(ranks[each.name]), each.loss(ranks[each.name])
        for rank in [*each.ranks(), None]:
            other = each.size(rank)
            if other < size:
                high = min(high, (each.loss(rank) - left) / (size - other))
            elif other > size:
                low = max(low, (left - each.loss(rank)) / (other - size))
    return low <= high


def test_small_cases_get_the_best_of_all_choices() -> None:
    random, exact, cases = np.random.default_rng(0), 0, 60
    for _ in range(cases):
        layers = [layer(name, 6, 5, random.exponential(size=5) ** 2) for name in "abc"]
        budget = int(random.integers(40, 90))
        found = loss(layers, by_budget(layers, budget))
        assert found <= 1.5 * best(layers, budget) + 1e-12
        exact += found <= best(layers, budget) + 1e-12
    assert exact > 0.7 * cases
    # Ranks alike for all layers are what a budget is better than.
    assert loss(layers, by_budget(layers, 66)) < loss(layers, dict.fromkeys("abc", 2))


def test_room_goes_to_the_layer_that_needs_it() -> None:
    layers = [layer("steep", 10, 10, [100, 1, 0.1, *[0.01] * 7]), layer("flat", 10, 10, [1.0] * 10)]
    ranks = by_budget(layers, 120)
    assert ranks == {"steep": 1, "flat": None}
    assert by_budget(layers, 60) == {"steep": 1, "flat": 2}
    assert by_budget(layers, 200) == {"steep": None, "flat": None}
    with pytest.raises(ModelwrightError, match="cannot have less than 40 weights"):
        by_budget(layers, 39)


def test_energy_and_error_are_two_words_for_one() -> None:
    one = layer("one", 40, 5, [16, 4, 2, 1, 1])  # 24 in all
    assert by_energy([one], 20 / 24 - 1e-9) == {"one": 2}
    assert by_energy([one], 20 / 24 + 1e-6) == {"one": 3}
    assert by_error([one], (4 / 24) ** 0.5 + 1e-9) == {"one": 2}
    assert by_error([one], (4 / 24) ** 0.5 - 1e-6) == {"one": 3}
    assert by_error([one], 1e-6) == {"one": None}


def test_what_does_not_make_it_smaller_is_not_offered() -> None:
    square = layer("square", 6, 6, [1.0] * 6)
    assert list(square.ranks()) == [1, 2]  # three ranks of 12 weights are as large as the whole
    assert by_rank([square], {"square": 2}) == {"square": 2}
    assert by_rank([square], {"square": 3}) == {"square": None}
    assert list(layer("vector", 9, 1, [1.0]).ranks()) == []


def test_multiples_are_rounded_up() -> None:
    wide = layer("wide", 64, 64, [1.0] * 64, multiple=8)
    assert list(wide.ranks()) == [8, 16, 24]
    assert by_rank([wide], {"wide": 9}) == {"wide": 16}
    assert by_rank([wide], {"wide": 25}) == {"wide": None}


def test_a_factored_layer_may_stay_get_less_or_become_whole() -> None:
    losses = np.linspace(1, 0, 5)
    tight = Options(name="tight", parameters=48, whole=100, per_rank=12, losses=losses)
    assert list(tight.ranks()) == [1, 2, 3]
    assert tight.size(None) == 48
    loose = Options(name="loose", parameters=48, whole=35, per_rank=12, losses=losses)
    assert list(loose.ranks()) == [1, 2]
    assert loose.size(None) == 35


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one"),
        ({"rank": 3, "energy": 0.5}, "by rank and energy"),
        ({"rank": 0}, "at least 1"),
        ({"rank": {"a": 2, "b": -1}}, "at least 1, not -1"),
        ({"energy": 1.0}, "between 0 and 1"),
        ({"error": 0.0}, "between 0 and 1"),
        ({"budget": 0.0}, "leaves nothing"),
        ({"budget": "some"}, "not a count"),
    ],
)
def test_rules_that_say_nothing_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        RankRule(**fields)  # type: ignore[arg-type]


def test_a_budget_is_of_the_whole_model() -> None:
    layers = [layer("flat", 10, 10, [1.0] * 10)]
    assert RankRule(budget=80).choose(layers, others=20) == {"flat": 3}
    assert RankRule(budget=0.5).choose(layers, others=20) == {"flat": 2}
    assert RankRule(budget="0.1k").choose(layers, others=20) == {"flat": 4}


def test_the_first_pattern_that_fits_gives_the_rank() -> None:
    layers = [layer(name, 10, 10, [1.0] * 10) for name in ("block.up", "block.down")]
    assert RankRule(rank={"down": 1, "block.*": 3}).choose(layers, 0) == {"block.up": 3, "block.down": 1}
