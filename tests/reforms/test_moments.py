from __future__ import annotations

import pytest
import torch
from tests.reforms.layers import NAMES, layers
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.reforms import moments
from modelwright.reforms.moments import gather


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_all_positions_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second moment of what goes in, by the second moment of what comes out of a layer without bias."""
    monkeypatch.setattr(moments, "_CHUNK", 7)
    layer, inputs = layers()[name]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    found = gather(nn.Sequential(layer), ["0"], [(inputs,), (2 * inputs,)])["0"]
    outputs = torch.cat([layer(inputs), layer(2 * inputs)])
    matrix = layer.weight.detach().T if name == "conv1d of transformers" else layer.weight.detach()  # type: ignore[union-attr, operator]
    groups = len(found.mean)
    rows = matrix.reshape(groups, matrix.shape[0] // groups, -1)
    second = torch.einsum("gij,gjk,gik->", rows, found.second, rows)
    assert float(second) * found.positions == pytest.approx(float(outputs.square().sum()), rel=1e-11)
    total = (rows @ found.mean[..., None]).sum() * found.positions
    assert float(total) == pytest.approx(float(outputs.sum()), rel=1e-9, abs=1e-9)


class Shared(nn.Module):
    """Two layers that read the same, one that reads it altered in place, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.late, self.idle = (nn.Linear(3, 2, dtype=torch.float64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        total = self.query(x) + self.key(input=x)
        x.mul_(3)
        return total + self.late(x)  # type: ignore[no-any-return]


def test_layers_that_read_the_same_and_layers_that_do_not_run() -> None:
    torch.manual_seed(0)
    model, inputs = Shared().train(), [{"x": torch.randn(4, 3, dtype=torch.float64)} for _ in range(3)]
    found = gather(model, ["query", "key", "late", "idle"], inputs)
    whole = torch.cat([each["x"] for each in inputs])
    assert found.keys() == {"query", "key", "late"}
    for name, factor in (("query", 1), ("key", 1), ("late", 3)):
        assert found[name].positions == 12
        torch.testing.assert_close(found[name].second[0], factor**2 * whole.T @ whole / 12)
        torch.testing.assert_close(found[name].mean[0], factor * whole.mean(0))
    assert model.training
    assert not model.query._forward_pre_hooks


def test_what_cannot_be_used_is_said() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ModelwrightError, match="no examples"):
        gather(model, ["0"], [])
    with pytest.raises(ModelwrightError, match="not finite") as raised:
        gather(model, ["0"], [torch.full((1, 3), torch.inf)])
    assert raised.value.where == "0"
    assert not model[0]._forward_pre_hooks
