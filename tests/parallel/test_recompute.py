"""Activation checkpointing: the same gradients, fewer bytes kept, and the products computed as often as promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.recompute import set_recompute
from modelwright.parallel.regions import regions

TOKENS = torch.arange(24).view(2, 12)


def language_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return GPT(vocabulary=24, layers=3, width=16, heads=2, dropout=dropout).build().double()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*arguments, **(named or {}))


def run(model: nn.Module) -> tuple[dict[str, Tensor], int, int]:
    """Gradients, bytes that the forward keeps, and matrix products of the backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(7)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(TOKENS).square().sum()
    with Products() as products:
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, sum(kept.values()), products.count


@pytest.mark.parametrize("recompute", ["full", "selective", ("blocks.*",)])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients_are_those_of_the_plain_model_bit_for_bit(recompute: str | Sequence[str], dropout: float) -> None:
    plain, _, _ = run(language_model(dropout))
    model = language_model(dropout)
    names = set_recompute(model, recompute)
    assert names == ["blocks.0", "blocks.1", "blocks.2"]
    found, _, _ = run(model)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_full_keeps_least_and_selective_repeats_no_product() -> None:
    kept, products = {}, {}
    for recompute in ("none", "selective", "full"):
        model = language_model()
        set_recompute(model, recompute)
        _, kept[recompute], products[recompute] = run(model)
    assert kept["full"] < 0.5 * kept["none"]
    assert products["none"] == products["selective"] < products["full"]


def test_evaluation_is_left_alone() -> None:
    model = language_model()
    expected = model(TOKENS)
    set_recompute(model, "full")
    with torch.no_grad():
        assert torch.equal(model(TOKENS), expected)


def test_a_pattern_inside_another_is_computed_once_again() -> None:
    model = language_model()
    assert set_recompute(model, ["blocks.1", "blocks.1.*"]) == ["blocks.1"]


@pytest.mark.parametrize(
    ("model", "recompute", "remedy"),
    [
        (nn.Linear(2, 2), "full", "patterns"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "selective", "patterns"),
        (nn.Sequential(nn.Linear(2, 2)), ["block.*"], "0"),
    ],
)
def test_nothing_to_recompute_is_a_mistake(model: nn.Module, recompute: str | list[str], remedy: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        set_recompute(model, recompute)
    assert caught.value.where == "plan.recompute"
    assert remedy in caught.value.remedy


def test_regions_are_the_outermost_repeated_blocks() -> None:
    inner = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2)))
    model = nn.ModuleDict(
        {"stem": nn.Linear(2, 2), "layers": nn.ModuleList([nn.Sequential(inner), nn.Sequential(inner)])}
    )
    assert list(regions(model)) == ["layers.0", "layers.1"]
    assert list(regions(inner)) == ["0", "1"]
    assert not list(regions(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
def test_compiled_regions_compute_the_same_under_the_same_names() -> None:
    plain, _, _ = run(language_model())
    model = language_model()
    names = list(model.state_dict())
    assert compile_regions(model, backend="aot_eager") == ["blocks.0", "blocks.1", "blocks.2"]
    found, _, _ = run(model)
    assert list(model.state_dict()) == names
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
