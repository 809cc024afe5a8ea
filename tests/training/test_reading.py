"""Numbers on their way from the device."""

from __future__ import annotations

import math

import pytest
import torch

from modelwright.training.reading import Reading


def test_numbers_of_any_kind_arrive_in_order() -> None:
    scalars = [
        torch.tensor(1.5),
        torch.tensor(True),
        torch.tensor(2**40 + 1),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(3.0, dtype=torch.bfloat16),
    ]
    reading = Reading(scalars)
    assert reading.immediate
    assert reading.values() == [1.5, 1.0, 2.0**40 + 1, 0.1, 3.0]
    assert reading.values() == reading.values()


def test_what_is_not_finite_is_not_hidden() -> None:
    values = Reading([torch.tensor(math.inf), torch.tensor(-math.inf), torch.tensor(math.nan)]).values()
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_a_later_change_is_not_seen() -> None:
    number = torch.tensor(1.0, dtype=torch.float64)
    reading = Reading([number])
    number += 1
    assert reading.values() == [1.0]


def test_no_gradient_is_kept_alive() -> None:
    weight = torch.ones(3, requires_grad=True)
    reading = Reading([weight.square().sum()])
    assert all(type(value) is float for value in reading.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_is_not_waited_for() -> None:
    number = torch.ones((), device="cuda")
    torch.cuda._sleep(1_000_000_000)
    number += 1
    reading = Reading([number])
    assert not reading.immediate
    assert not reading._event.query()  # type: ignore[union-attr]
    assert reading.values() == [2.0]
    assert reading.immediate
