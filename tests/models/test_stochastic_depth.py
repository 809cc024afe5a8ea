from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.models.convnet import ConvNet
from modelwright.models.sequence_to_sequence import SequenceToSequence
from modelwright.models.stochastic_depth import StochasticDepth, check_rate, rates
from modelwright.models.vit import ViT


def dropped(samples: int, rate: float) -> Tensor:
    torch.manual_seed(0)
    return StochasticDepth(rate)(torch.ones(samples, 3, 2))


def test_a_sample_is_dropped_as_a_whole_or_scaled() -> None:
    rows = dropped(400, 0.25).flatten(1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    torch.testing.assert_close(rows.unique(), torch.tensor([0, 1 / 0.75]))


def test_samples_are_dropped_at_the_rate_and_the_mean_stays() -> None:
    rows = dropped(20_000, 0.25)[:, 0, 0]
    deviation = (0.25 * 0.75 / 20_000) ** 0.5
    assert float((rows == 0).double().mean()) == pytest.approx(0.25, abs=4 * deviation)
    assert float(rows.double().mean()) == pytest.approx(1.0, abs=4 * deviation / 0.75)


def test_evaluation_drops_nothing() -> None:
    branch = torch.randn(5, 4)
    assert StochasticDepth(0.9).eval()(branch) is branch
    assert StochasticDepth(0.0)(branch) is branch


def test_gradients_follow_what_was_kept() -> None:
    torch.manual_seed(0)
    branch = torch.ones(50, 3, requires_grad=True)
    kept = StochasticDepth(0.5)(branch)
    kept.sum().backward()
    assert branch.grad is not None
    assert torch.equal(branch.grad, kept.detach())
    assert set(kept.detach().flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert StochasticDepth(0.5)(torch.ones(4, 2, dtype=dtype)).dtype == dtype


@given(depth=st.integers(1, 60), last=st.floats(0, 0.99))
def test_rates_grow_linearly_to_the_last(depth: int, last: float) -> None:
    grown = rates(depth, last)
    assert len(grown) == depth
    assert grown[-1] == pytest.approx(last)
    # Huang et al. 2016, equation 4: p_l = 1 - l / L (1 - p_L), for l from 1.
    for layer, rate in enumerate(grown, start=1):
        assert 1 - rate == pytest.approx(1 - layer / depth * (1 - (1 - last)))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (ViT(channels=1, image_size=8, classes=2, layers=4, width=8, heads=2, stochastic_depth=0.4), 4),
        (ConvNet(channels=1, classes=2, widths=(8, 8), depths=(1, 3), stochastic_depth=0.4), 4),
        (SequenceToSequence(vocabulary=5, width=8, heads=2, stochastic_depth=0.4), 8),
    ],
    ids=["vit", "convnet", "sequence-to-sequence"],
)
def test_models_drop_more_with_depth(model: ViT | ConvNet | SequenceToSequence, count: int) -> None:
    found = [module.rate for module in model.build().modules() if isinstance(module, StochasticDepth)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4] * (count // 4))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_wrong_rates_are_refused(rate: float) -> None:
    with pytest.raises(ModelwrightError, match="at least 0 and below 1"):
        StochasticDepth(rate)
    with pytest.raises(ModelwrightError, match="gpt: dropout is at least 0"):
        check_rate("gpt", dropout=rate)
