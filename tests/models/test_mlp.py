from __future__ import annotations

import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.models.mlp import MLP


def test_equals_the_textbook() -> None:
    torch.manual_seed(0)
    model = MLP(features=6, classes=3, hidden=(5, 4), activation="tanh").build().double()
    inputs = torch.randn(7, 2, 3, dtype=torch.float64)
    weights = model.state_dict()
    x = inputs.reshape(7, 6)
    for layer in ("layers.0", "layers.1"):
        x = torch.tanh(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    expected = x @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(model(inputs), expected, rtol=1e-12, atol=1e-12)


def test_no_hidden_layer_is_a_linear_model() -> None:
    model = MLP(features=6, classes=3, hidden=()).build()
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(3, 6), (3,)]


@pytest.mark.parametrize("settings", [{"features": 0}, {"hidden": (4, 0)}, {"activation": "step"}, {"dropout": -0.1}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError):
        MLP(**settings)  # type: ignore[arg-type]


def test_open_sizes_are_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="number of classes is not known"):
        MLP(features=4).build()
