from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.compression.quantize.plain import gptq
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Integers, decode
from modelwright.compression.quantize.quantizing import quantize
from modelwright.compression.quantize.rounding.gptq import GPTQ
from modelwright.compression.quantize.rounding.nearest import Nearest

COLUMNS = 24


def correlated(count: int = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    mixing = torch.randn(8, COLUMNS, generator=generator, dtype=torch.float64)
    generator.manual_seed(seed)
    return torch.randn(count, 8, generator=generator, dtype=torch.float64) @ mixing + 0.1 * torch.randn(
        count, COLUMNS, generator=generator, dtype=torch.float64
    )


def weight(rows: int = 10) -> Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def second() -> Tensor:
    x = correlated()
    return (x.T @ x / len(x))[None]


@pytest.mark.parametrize("block", [1, 5, 24, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_the_method_with_explicit_inverses(block: int, bits: int) -> None:
    encoding = Integers(bits=bits)  # type: ignore[arg-type]
    integers, scales = GPTQ(damping=0.01, block=block).round(weight(), encoding, second(), torch.float64)
    found = decode(integers, scales, encoding.group).numpy()
    expected = gptq(weight().numpy(), second()[0].numpy(), damping=0.01, bits=bits)
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)
    nearest = decode(*Nearest().round(weight(), encoding, None, torch.float64), encoding.group).numpy()
    assert not np.allclose(nearest, expected), "the reference is no rounding to the nearest"


def test_order_by_size_is_the_method_on_turned_columns() -> None:
    order = second()[0].diagonal().argsort(descending=True, stable=True)
    integers, scales = GPTQ(by_size=True).round(weight(), Integers(bits=4), second(), torch.float64)
    turned = gptq(weight()[:, order].numpy(), second()[0][order][:, order].numpy(), damping=0.01, bits=4)
    assert np.allclose(decode(integers, scales, 32)[:, order].numpy(), turned)


@pytest.mark.parametrize(
    "encoding",
    [
        Integers(bits=4),
        Integers(bits=4, symmetric=False),
        Integers(bits=4, granularity="group", group=8),
        Integers(bits=4, granularity="tensor"),
        Integers(bits=8),
    ],
    ids=str,
)
def test_outputs_on_unseen_data_are_nearer_than_with_the_nearest_numbers(encoding: Integers) -> None:
    unseen = correlated(seed=1)
    errors = []
    for rounding in (Nearest(), GPTQ()):
        integers, scales = rounding.round(weight(), encoding, second(), torch.float64)
        errors.append(float((unseen @ (decode(integers, scales, encoding.group) - weight()).T).square().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_without_correlation_it_is_the_nearest() -> None:
    identity = torch.eye(COLUMNS, dtype=torch.float64)[None]
    for encoding in (Integers(bits=4), Integers(bits=4, symmetric=False, granularity="group", group=10)):
        ours, _ = GPTQ().round(weight(), encoding, identity, torch.float64)
        theirs, _ = Nearest().round(weight(), encoding, None, torch.float64)
        assert torch.equal(ours, theirs)


def test_what_is_never_read_does_no_harm() -> None:
    moment = second()
    moment[:, 3], moment[:, :, 3] = 0, 0
    integers, scales = GPTQ().round(weight(), Integers(bits=4), moment, torch.float64)
    assert bool(torch.isfinite(decode(integers, scales, 32)).all())


def test_layers_of_a_model_and_groups_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 6)
    )
    mixing = torch.randn(3, 4 * 36)
    examples = [(torch.randn(32, 3) @ mixing).view(32, 4, 6, 6) for _ in range(5)]
    unseen = examples.pop()
    errors = {}
    model.requires_grad_(False)
    for name, rounding in {"nearest": Nearest(), "gptq": GPTQ()}.items():
        found = quantize(model, batches=examples, weights=Integers(bits=4), rounding=rounding).model
        errors[name] = float((found(unseen) - model(unseen)).square().mean())
    assert errors["gptq"] < 0.6 * errors["nearest"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="damping is above 0"):
        GPTQ(damping=0)
    with pytest.raises(ModelwrightError, match="at least 1 column"):
        GPTQ(block=0)
    with pytest.raises(ModelwrightError, match=r"no examples, which rounding must see"):
        quantize(nn.Sequential(nn.Linear(4, 4)), rounding=GPTQ())
