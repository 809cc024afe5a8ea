from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.runs.downsample import downsample, lttb


def reference(points: list[tuple[float, float]], count: int) -> list[int]:
    """The algorithm in plain Python from its description (Steinarsson 2013)."""
    size = (len(points) - 2) / (count - 2)
    buckets = [[0]]
    for bucket in range(count - 2):
        buckets.append(list(range(math.floor(bucket * size) + 1, math.floor((bucket + 1) * size) + 1)))
    buckets.append([len(points) - 1])
    chosen = [0]
    for bucket in range(1, count - 1):
        after = buckets[bucket + 1]
        mean_x = sum(points[place][0] for place in after) / len(after)
        mean_y = sum(points[place][1] for place in after) / len(after)
        left_x, left_y = points[chosen[-1]]
        best, largest = -1, -1.0
        for place in buckets[bucket]:
            x, y = points[place]
            area = abs((left_x - mean_x) * (y - left_y) - (left_x - x) * (mean_y - left_y)) / 2
            if area > largest:
                best, largest = place, area
        chosen.append(best)
    return [*chosen, len(points) - 1]


@given(st.integers(5, 300), st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_the_same_points_as_the_reference(points: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    x, y = np.cumsum(numbers.integers(1, 5, points)).astype(float), numbers.integers(-50, 50, points).astype(float)
    if count >= points:
        assert lttb(x, y, count).tolist() == list(range(points))
        return
    chosen, expected = lttb(x, y, count), reference(list(zip(x.tolist(), y.tolist(), strict=True)), count)
    # Equal areas may fall either way by rounding; then the chosen points' areas are the same in both.
    assert chosen[0] == 0 and chosen[-1] == points - 1 and len(chosen) == count
    first = next((place for place in range(count) if chosen[place] != expected[place]), None)
    if first is not None:
        assert y[chosen[first]] == pytest.approx(y[expected[first]]) or tied(x, y, chosen, expected, first, count)


def tied(x: np.ndarray, y: np.ndarray, chosen: np.ndarray, expected: list[int], place: int, count: int) -> bool:
    size = (len(x) - 2) / (count - 2)
    last = place + 1 == count - 1
    start = math.floor(place * size) + 1
    after = slice(start, len(x) if last else math.floor((place + 1) * size) + 1)
    areas = [
        abs((x[after].mean() - x[chosen[place - 1]]) * (y[at] - y[chosen[place - 1]])
            - (x[at] - x[chosen[place - 1]]) * (y[after].mean() - y[chosen[place - 1]]))
        for at in (chosen[place], expected[place])
    ]  # fmt: skip
    return math.isclose(areas[0], areas[1], rel_tol=1e-9, abs_tol=1e-9)


def test_a_smooth_line_gives_exactly_the_references_points() -> None:
    x = np.arange(5000.0)
    y = np.sin(x / 100) + np.random.default_rng(0).normal(0, 0.1, 5000)
    expected = reference(list(zip(x.tolist(), y.tolist(), strict=True)), 200)
    assert lttb(x, y, 200).tolist() == expected
    assert lttb(x, y + np.eye(1, 5000, 2500)[0] * 50, 200).tolist() != expected  # a spike is seen


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=200), st.integers(3, 50))
def test_never_more_than_the_limit_and_only_true_points(values: list[float], limit: int) -> None:
    x, y = np.arange(len(values), dtype=float), np.array(values, dtype=float)
    few_x, few_y = downsample(x, y, limit)
    assert len(few_x) == len(few_y) <= limit
    assert not np.isinf(few_y).any() and (np.diff(few_x) >= 0).all()
    kept = np.isfinite(few_y)
    assert (y[few_x[kept].astype(int)] == few_y[kept]).all()
    finite = np.flatnonzero(np.isfinite(y))
    if len(finite):
        assert (few_x[0], few_x[-1]) == (finite[0], finite[-1])


def test_a_gap_parts_the_line() -> None:
    x, y = np.arange(1000.0), np.ones(1000)
    y[500] = np.nan
    few_x, few_y = downsample(x, y, 100)
    (gap,) = np.flatnonzero(np.isnan(few_y))
    assert (few_x[gap - 1], few_x[gap + 1]) == (499, 501)


def test_many_gaps_are_joined_rather_than_lost() -> None:
    x, y = np.arange(1000.0), np.ones(1000)
    y[::2] = np.nan
    few_x, few_y = downsample(x, y, 100)
    assert len(few_x) == 100 and np.isfinite(few_y).all()


def test_too_small_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="3"):
        downsample(np.arange(9.0), np.arange(9.0), 2)
