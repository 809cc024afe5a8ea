from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from math import comb, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.sampling.steps import surprise

from modelwright.data.order import words
from modelwright.data.sampling.sizes import RARE, Sizes, most

RARER = round(1 / RARE)
CASES = [(1, 1), (2, 1), (5, 2), (40, 39), (300, 32), (300, 150), (300, 299), (1000, 64)]


def exact(length: int, batch: int) -> list[int]:
    """Binomial probabilities of 0 .. length, times ``length ** length``, by counting."""
    return [comb(length, size) * batch**size * (length - batch) ** (length - size) for size in range(length + 1)]


def chances(sizes: Sizes) -> np.ndarray:
    """The chance of each number from least to most, found by asking where the number changes."""
    borders = []
    for size in range(sizes.least, sizes.most):
        low, high = 0, 2**64
        while low < high:
            middle = (low + high) // 2
            if sizes.drawn(np.array([middle], dtype=np.uint64))[0] > size:
                high = middle
            else:
                low = middle + 1
        borders.append(low / 2**64)
    return np.diff([0.0, *borders, 1.0])


@pytest.mark.parametrize(("length", "batch"), CASES)
def test_what_is_left_out_is_rarer_than_said(length: int, batch: int) -> None:
    sizes = Sizes(length, batch)
    weights, most_left_out = exact(length, batch), length**length // RARER
    assert sum(weights[: sizes.least]) <= most_left_out
    assert sum(weights[sizes.most + 1 :]) <= most_left_out
    assert sizes.most == most(length, batch)


def test_little_more_is_kept_than_must_be() -> None:
    beyond = accumulate(reversed(exact(1000, 64)))
    needed = 1000 - next(place for place, weight in enumerate(beyond) if weight > 1000**1000 // RARER)
    assert needed <= Sizes(1000, 64).most <= needed * 1.05


@pytest.mark.parametrize(("length", "batch"), [case for case in CASES if case[0] <= 300])
def test_numbers_are_binomial(length: int, batch: int) -> None:
    sizes = Sizes(length, batch)
    probabilities = [weight / length**length for weight in exact(length, batch)[sizes.least : sizes.most + 1]]
    assert np.abs(chances(sizes) - np.array(probabilities)).max() < 1e-14


def test_numbers_of_endless_data_are_those_of_poisson() -> None:
    """Le Cam: the distributions differ by less than batch**2 / length, here 1e-15."""
    sizes = Sizes(2**62, 64)
    euler = sum(Fraction(64**size, factorial(size)) for size in range(400))
    probabilities = [float(Fraction(64**size, factorial(size)) / euler) for size in range(sizes.least, sizes.most + 1)]
    assert np.abs(chances(sizes) - np.array(probabilities)).max() < 1e-14


def test_numbers_drawn_are_as_often_as_they_should_be() -> None:
    count = 40_000
    sizes = Sizes(300, 8)
    drawn = sizes.drawn(words(3, np.arange(count)))
    expected = {size: exact(300, 8)[size] / 300**300 * count for size in range(2, 16)}
    seen = {size: int((drawn == size).sum()) for size in expected}
    expected["else"], seen["else"] = count - sum(expected.values()), count - sum(seen.values())  # type: ignore[index]
    assert abs(surprise(seen, expected)) < 4
    assert surprise({8: count}, expected) > 10


@given(length=st.integers(1, 2**62), data=st.data())
def test_any_length_and_batch_has_numbers_around_its_mean(length: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, min(length, 10**5)))
    sizes = Sizes(length, batch)
    assert 0 <= sizes.least <= batch <= sizes.most <= length
    assert sizes.most <= batch + 9 * batch**0.5 + 13
    ends = sizes.drawn(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert sizes.least <= ends[0] <= batch <= ends[1] <= sizes.most
