"""Bounds hold as often as they say, and are tight enough to be of use."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.compression.contract.bound import Scores, drop_of, upper_bound


def answers(random: np.random.Generator, samples: int, lost: float, won: float, right: float = 0.8) -> list[Scores]:
    """Two models: of so many answers the second loses some that were right, and wins some that were wrong."""
    draw = random.random(samples)
    before = draw < right
    after = before.copy()
    after[draw < lost] = False
    after[draw > 1 - won] = True
    return [Scores(each.astype(np.float64), np.ones(samples)) for each in (before, after)]


def misses(samples: int, lost: float, won: float, trials: int, **how: object) -> float:
    """How often the drop is above its bound."""
    random = np.random.default_rng(1)
    bounds = [
        upper_bound(*answers(random, samples, lost, won), higher_is_better=True, **how)  # type: ignore[arg-type]
        for _ in range(trials)
    ]
    return sum(lost - won > bound for bound in bounds) / trials


@pytest.mark.parametrize(("lost", "won"), [(0.004, 0.001), (0.02, 0.02), (0.001, 0.0), (0.2, 0.1)])
def test_it_holds_as_often_as_it_says(lost: float, won: float) -> None:
    assert misses(500, lost, won, 300) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_the_normal_approximation_of_few_rare_losses_does_not() -> None:
    assert misses(500, 0.001, 0.0, 300, spread=None) > 0.3


def test_of_pairs_it_is_near_what_the_normal_approximation_says() -> None:
    random = np.random.default_rng(2)
    for lost, won in ((0.01, 0.005), (0.05, 0.05)):
        pair = answers(random, 20_000, lost, won)
        drop = drop_of(*pair, higher_is_better=True)
        room = upper_bound(*pair, higher_is_better=True) - drop
        assert 0 < room < 2 * (upper_bound(*pair, higher_is_better=True, spread=None) - drop)


def test_pairs_say_more_than_two_models_apart() -> None:
    before, after = answers(np.random.default_rng(3), 5000, 0.004, 0.002)
    apart = Scores(np.random.default_rng(4).permutation(after.totals), after.counts)
    assert upper_bound(before, after, higher_is_better=True) < 0.5 * upper_bound(before, apart, higher_is_better=True)


def test_models_that_answer_alike_are_told_so_by_thousands_of_samples() -> None:
    before, _ = answers(np.random.default_rng(5), 5000, 0, 0)
    assert upper_bound(before, before, higher_is_better=True) == pytest.approx(math.log(20) / (0.9 * 5000), rel=0.2)


def test_a_better_one_has_a_bound_below_nothing() -> None:
    pair = answers(np.random.default_rng(6), 5000, 0.0, 0.1)
    assert -0.1 < upper_bound(*pair, higher_is_better=True) < -0.05
    worse = upper_bound(*reversed(pair), higher_is_better=True)
    assert 0.08 < worse < 0.15


def test_texts_count_by_their_tokens() -> None:
    """A ratio of sums, whose samples are of unequal length: long ones lose more here."""
    random = np.random.default_rng(7)

    def drawn(samples: int) -> list[Scores]:
        counts = random.integers(1, 50, samples).astype(np.float64)
        lost = random.binomial(counts.astype(int), 0.002 * counts / 50)
        before = np.floor(0.9 * counts)
        return [Scores(before, counts), Scores(np.maximum(before - lost, 0), counts)]

    true = drop_of(*drawn(400_000), higher_is_better=True)
    bounds = [upper_bound(*drawn(4000), higher_is_better=True) for _ in range(50)]
    assert sum(true > bound for bound in bounds) <= 5
    assert np.median(bounds) < 3 * true


def test_losses_have_no_bounds_and_lower_is_better() -> None:
    random = np.random.default_rng(8)
    losses = random.exponential(2.0, 5000)
    before, after = (Scores(each, np.ones(5000)) for each in (losses, losses + random.normal(0.01, 0.1, 5000)))
    assert drop_of(before, after, higher_is_better=False) == pytest.approx(0.01, abs=0.005)
    bound = upper_bound(before, after, higher_is_better=False, spread=None)
    drops = after.totals - before.totals
    assert bound == pytest.approx(drops.mean() + 1.6448536 * drops.std(ddof=1) / math.sqrt(5000), rel=1e-6)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=60),
    st.floats(0.5, 0.99),
    st.floats(0.01, 100),
)
def test_it_is_above_what_was_seen_and_goes_with_the_unit(drops: list[float], confidence: float, unit: float) -> None:
    seen, counts = np.asarray(drops), np.ones(len(drops))
    before, after = Scores(np.ones(len(drops)), counts), Scores(1 - seen, counts)
    bound = upper_bound(before, after, higher_is_better=True, confidence=confidence)
    assert seen.mean() - 1e-9 <= bound <= 1.0
    assert bound <= upper_bound(before, after, higher_is_better=True, confidence=0.995) + 1e-9
    scaled = [Scores(unit * each.totals, counts) for each in (before, after)]
    wide = upper_bound(*scaled, higher_is_better=True, confidence=confidence, spread=unit)
    assert wide == pytest.approx(unit * bound, rel=1e-6, abs=1e-9 * unit)


def test_what_cannot_be_compared_is_refused() -> None:
    some = Scores(np.ones(5), np.ones(5))
    with pytest.raises(ModelwrightError, match="same samples"):
        upper_bound(some, Scores(np.ones(6), np.ones(6)), higher_is_better=True)
    with pytest.raises(ModelwrightError, match="at least two"):
        upper_bound(Scores(np.ones(1), np.ones(1)), Scores(np.ones(1), np.ones(1)), higher_is_better=True)
    with pytest.raises(ModelwrightError, match="differ by more"):
        upper_bound(some, Scores(-np.ones(5), np.ones(5)), higher_is_better=True)
    with pytest.raises(ModelwrightError, match="finite"):
        upper_bound(some, Scores(np.full(5, np.nan), np.ones(5)), higher_is_better=True)
