from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelwright.optim.clipping import clip_, global_norm


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), min_size=1, max_size=4))
def test_norm_is_that_of_all_numbers(values: list[list[float]]) -> None:
    gradients = [torch.tensor(row, dtype=torch.float64) for row in values]
    expected = math.sqrt(math.fsum(value**2 for row in values for value in row))
    assert global_norm(gradients).item() == pytest.approx(expected, rel=1e-12)


def test_norm_of_low_precision_is_float32() -> None:
    gradients = [torch.full((1000,), 0.1, dtype=torch.bfloat16), torch.full((10,), 2.0)]
    norm = global_norm(gradients)
    expected = math.sqrt(1000 * gradients[0][0].item() ** 2 + 40)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(expected, rel=1e-6)
    assert global_norm([]).item() == 0


def test_clips_to_the_maximum_and_keeps_the_direction() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0], dtype=torch.bfloat16)]
    clip_(gradients, global_norm(gradients), 1.0)
    assert gradients[0].tolist() == pytest.approx([0.6, 0.0])
    assert gradients[1].dtype == torch.bfloat16
    assert gradients[1].item() == pytest.approx(0.8, rel=1e-2)


def test_a_smaller_norm_leaves_every_bit() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(50), torch.randn(3, 4)]
    before = [gradient.clone() for gradient in gradients]
    clip_(gradients, global_norm(gradients), 1e3)
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_no_number_stays_visible(value: float) -> None:
    assert not global_norm([torch.tensor([1.0, value])]).isfinite()
