from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelwright.data.tables.moments import Moments


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 1000), st.floats(-1e6, 1e6))
def test_chunks_give_what_all_rows_give(sizes: list[int], seed: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(offset, 2.0, (sum(sizes), 3))
    rows[random.random(rows.shape) < 0.2] = np.nan
    moments, begin = Moments(), 0
    for size in sizes:
        moments.add(rows[begin : begin + size])
        begin += size
    for column in range(3):
        there = rows[~np.isnan(rows[:, column]), column]
        assert moments.count[column] == len(there)
        if len(there) > 1:
            np.testing.assert_allclose(moments.mean[column], there.mean(), rtol=1e-12)
            np.testing.assert_allclose(moments.spread[column], there.std(), rtol=1e-9)


def test_a_constant_has_spread_one() -> None:
    moments = Moments()
    for _ in range(3):
        moments.add(np.full((7, 1), 0.1))
    assert moments.spread[0] == 1.0
