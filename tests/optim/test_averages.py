"""Averages of weights against their formulas, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modelwright.base.errors import ModelwrightError
from modelwright.optim import AVERAGES, Average
from modelwright.optim.averages.ema import Ema
from modelwright.optim.averages.mean import Mean

TOTAL = 20


def weights() -> Tensor:
    return torch.randn(TOTAL, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def follow(technique: Ema | Mean, dtype: torch.dtype = torch.float64) -> Average:
    """The average after a run in which the parameter, zeros at first, took the values of ``weights``."""
    parameter = nn.Parameter(torch.zeros(3, dtype=dtype))
    average = technique.build({"w": parameter})
    for step, values in enumerate(weights()):
        parameter.data.copy_(values)
        average.update(step, TOTAL)
    return average


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("warmup", [True, False])
def test_ema_is_its_formula(every: int, warmup: bool) -> None:
    expected, number = torch.zeros(3, dtype=torch.float64), 0
    for step, values in enumerate(weights(), start=1):
        if step % every == 0:
            decay = min(0.6, (1 + number) / (10 + number)) if warmup else 0.6
            expected = decay * expected + (1 - decay) * values
            number += 1
    average = follow(Ema(decay=0.6, every=every, warmup=warmup))
    assert average.number == number
    torch.testing.assert_close(average.tensors()["w"], expected, rtol=1e-12, atol=1e-12)


def test_ema_is_torchs() -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first call copies
    ours = Ema(decay=0.9, warmup=False).build(dict(model.named_parameters()))
    for step, values in enumerate(weights()):
        model.weight.data.copy_(values[None])
        theirs.update_parameters(model)
        ours.update(step, TOTAL)
    torch.testing.assert_close(ours.tensors()["weight"], theirs.module.weight.detach(), rtol=1e-12, atol=1e-12)


@given(start=st.integers(1, 25) | st.floats(0, 0.99), every=st.integers(1, 5))
def test_mean_is_the_mean_of_the_last_weights(start: float, every: int) -> None:
    first = round(start if start >= 1 else start * TOTAL)
    counted = weights()[first + every - 1 :: every]
    average = follow(Mean(start=start, every=every))
    assert average.number == len(counted)
    expected = counted.mean(0) if len(counted) else weights()[-1]  # before the start: the live weights
    torch.testing.assert_close(average.tensors()["w"], expected, rtol=1e-12, atol=1e-12)


def test_mean_is_torchs() -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    theirs, ours = AveragedModel(model), Mean(start=0.5).build(dict(model.named_parameters()))
    for step, values in enumerate(weights()):
        model.weight.data.copy_(values[None])
        ours.update(step, TOTAL)
        if step >= TOTAL // 2:
            theirs.update_parameters(model)
    torch.testing.assert_close(ours.tensors()["weight"], theirs.module.weight.detach(), rtol=1e-12, atol=1e-12)


def test_small_steps_are_not_lost_in_bfloat16() -> None:
    """An average kept in the type of the weights would not move: the negative control."""
    average = Ema(decay=0.999, warmup=False).build({"w": (live := nn.Parameter(torch.ones(4, dtype=torch.bfloat16)))})
    narrow = torch.ones(4, dtype=torch.bfloat16)
    live.data.mul_(1.0625)
    for step in range(100):
        average.update(step, 100)
        narrow.lerp_(live.detach(), 0.001)
    expected = 1 + 0.0625 * (1 - 0.999**100)
    assert average.tensors()["w"].tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert narrow.tolist() == [1.0] * 4


def test_before_the_start_the_mean_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    average = Mean(start=0.5).build({"w": parameter})
    average.update(0, 10)
    assert average.state().keys() == {"number"}
    with average.swapped():
        assert parameter.tolist() == [1.0, 1.0]


def test_whole_numbers_and_tied_names_are_kept() -> None:
    counts = nn.Parameter(torch.tensor([3]), requires_grad=False)
    average = Ema().build({"w": nn.Parameter(torch.ones(2)), "counts": counts})
    assert average.tensors()["counts"].data_ptr() == counts.data_ptr()
    assert average.state().keys() == {"number", "average/w"}


def test_gradients_are_neither_kept_nor_needed() -> None:
    model = nn.Linear(3, 2)
    average = Ema().build(dict(model.named_parameters()))
    model(torch.ones(1, 3)).sum().backward()
    average.update(0, 1)
    assert not any(tensor.requires_grad for tensor in average.tensors().values())
    with average.swapped():
        assert model(torch.ones(1, 3)).requires_grad


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ema", {"decay": 1.0}, "decay"),
        ("ema", {"every": 0}, "every"),
        ("mean", {"start": 1.5}, "start"),
        ("mean", {"start": -0.1}, "start"),
        ("mean", {"every": 0}, "every"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ModelwrightError, match=f"{name}: {message}"):
        AVERAGES.resolve(name)(**settings)
