from __future__ import annotations

import numpy as np
import pytest
from tests.data.sampling.steps import Numbers

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import Order
from modelwright.data.sampling.global_sampling import Global

PLACES = np.arange(500)


class Bringing(Numbers):
    """Has an order of its own: backwards."""

    def order(self, seed: int) -> object:
        return lambda positions: self.length - 1 - (np.asarray(positions) + seed) % self.length


def test_it_is_the_keyed_permutation_of_all_samples() -> None:
    sampling = Global()
    assert sampling.positions(Numbers(90), batch=7) == 7
    order = sampling.order(Numbers(90), batch=7, seed=4)
    assert order(PLACES).tolist() == Order(90, 4)(PLACES).tolist()


def test_the_batch_changes_nothing() -> None:
    first, second = (Global().order(Numbers(90), batch=batch, seed=4)(PLACES) for batch in (7, 64))
    assert (first == second).all()


def test_an_order_that_the_data_brings_is_taken() -> None:
    order = Global().order(Bringing(10), batch=2, seed=1)
    assert order([0, 1, 9]).tolist() == [8, 7, 9]


def test_no_samples_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="cannot order 0 samples"):
        Global().order(Numbers(0), batch=2, seed=1)
