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
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.program import LocalProgram
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


def test_a_model_that_is_trained_again_forgets_the_earlier_wish() -> None:
    model = language_model()
    own = model.blocks[1].forward
    model.blocks[1].forward = lambda *inputs: own(*inputs)
    mine = model.blocks[1].forward
    set_recompute(model, "full")
    set_recompute(model, "full")
    assert run(model)[2] == run(recomputing(language_model()))[2]
    set_recompute(model, "none")
    assert run(model)[2] == run(language_model())[2]
    assert "forward" not in vars(model.blocks[0])
    assert model.blocks[1].forward is mine


def recomputing(model: nn.Module) -> nn.Module:
    set_recompute(model, "full")
    return model


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


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.norm(self.linear(inputs))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_batch_norms_take_in_each_batch_once(recompute: str, momentum: float | None) -> None:
    found = []
    for kind in ("none", recompute):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 8), nn.Sequential(Normed(), Normed()), nn.Linear(8, 4))
        for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]:
            norm.momentum = momentum
        set_recompute(model, kind)
        for _ in range(2):
            model(torch.randn(16, 5)).square().sum().backward()
        gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
        found.append(model.state_dict() | gradients)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_bf16_weights_are_there_when_blocks_are_computed_again(recompute: str) -> None:
    batch = {"inputs": TOKENS, "targets": TOKENS.roll(-1, 1)}
    found = []
    for kind in ("none", recompute):
        torch.manual_seed(3)
        model = GPT(vocabulary=24, layers=3, width=16, heads=2, dropout=0.1).build()
        program = LocalProgram(model, NextToken(), device=torch.device("cpu"), precision="bf16-weights")
        set_recompute(model, kind)
        torch.manual_seed(7)
        program.forward_backward([batch, batch], program.counts([batch, batch]))
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
