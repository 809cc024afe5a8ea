"""Experts against all of them computed for every token and mixed by shares that are mostly zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.balance import balances, balancing
from modelwright.models.experts import Experts, Grouped
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.recompute import set_recompute

TOKENS = torch.arange(36).view(4, 9) * 7 % 23


def layer(chosen: int, gated: bool = True, experts: int = 5) -> Experts:
    torch.manual_seed(1)
    return Experts(16, 24, experts=experts, chosen=chosen, gated=gated, balance=0.3).double()


def densely(layer: Experts, x: Tensor) -> Tensor:
    """Every expert works on every token."""
    shares = functional.softmax(x @ layer.router.weight.T, dim=-1)
    best = shares.topk(layer.chosen).values
    shares = shares * (shares >= best[..., -1:])
    if layer.chosen > 1:
        shares = shares / shares.sum(-1, keepdim=True)
    up = torch.einsum("btw,ewh->bteh", x, layer.up)
    if layer.gate is None:
        inner = functional.gelu(up)
    else:
        inner = functional.silu(torch.einsum("btw,ewh->bteh", x, layer.gate)) * up
    return torch.einsum("bteh,ehw,bte->btw", inner, layer.down, shares)


def balance_by_hand(layer: Experts, x: Tensor) -> Tensor:
    """The loss as it is written, sample by sample; autograd does the rest."""
    total = x.new_zeros(())
    for sample in x:
        shares = functional.softmax(sample @ layer.router.weight.T, dim=-1)
        chosen = shares.topk(layer.chosen).indices.flatten().tolist()
        load = torch.tensor([chosen.count(expert) / len(chosen) for expert in range(layer.experts)], dtype=x.dtype)
        total = total + layer.experts * (load * shares.mean(0)).sum()
    return total


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_chosen_experts_alone_compute_what_all_would(chosen: int, gated: bool) -> None:
    model = layer(chosen, gated)
    x = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    found, expected = model(x), densely(model, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(found)
    (of_x,) = torch.autograd.grad((expected * weight).sum(), x, retain_graph=True)
    (expected * weight).sum().backward()
    by_all = gradients(model)
    x.grad = None
    (found * weight).sum().backward()
    assert_close(gradients(model), by_all)
    torch.testing.assert_close(x.grad, of_x, rtol=1e-12, atol=1e-12)


def test_an_expert_that_nobody_chooses_gets_a_gradient_of_zero() -> None:
    model = layer(2)
    x = torch.rand(2, 6, 16, dtype=torch.float64)
    model.router.weight.data[3] = -100.0
    model(x).sum().backward()
    assert model.up.grad is not None
    assert not model.up.grad[3].any()
    assert model.up.grad[[0, 1, 2, 4]].abs().sum((1, 2)).count_nonzero() >= 2


def test_no_token_at_all() -> None:
    model = layer(2)
    assert model(torch.zeros(0, 6, 16, dtype=torch.float64)).shape == (0, 6, 16)


@pytest.mark.parametrize("sizes", [[3, 0, 5, 8], [0, 0, 16, 0], [4, 4, 4, 4]])
def test_grouped_product_is_one_product_for_each_expert(sizes: list[int]) -> None:
    torch.manual_seed(0)
    rows, weights = torch.randn(16, 8), torch.randn(4, 8, 24)
    found = []
    for fused in (False, True):
        leaves = [rows.bfloat16().requires_grad_(), weights.bfloat16().requires_grad_()]
        out = Grouped(leaves[0], torch.tensor(sizes), fused)(*leaves)
        (out * torch.arange(24, dtype=out.dtype)).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for looped, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, looped, rtol=2e-2, atol=2e-1)
    each = torch.cat([part @ weights[number] for number, part in enumerate(rows.split(sizes))])
    torch.testing.assert_close(Grouped(rows, torch.tensor(sizes))(rows, weights), each)


def test_the_router_decides_in_float32_whatever_the_precision() -> None:
    model = layer(2).float()
    x = torch.randn(2, 5, 16)
    shares, chosen = model.route(x, model.router.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = model(x)
        same, alike = model.route(x, model.router.weight)
    assert short.dtype == torch.bfloat16
    assert torch.equal(shares, same)
    assert torch.equal(chosen, alike)
    torch.testing.assert_close(short.float(), model(x), rtol=0.1, atol=0.1)


# --- balance


@pytest.mark.parametrize("chosen", [1, 2])
def test_balance_is_the_loss_as_written(chosen: int) -> None:
    model = layer(chosen)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    (densely(model, x).square().sum() + 2.0 * 0.3 * balance_by_hand(model, x)).backward()
    expected = gradients(model)
    with balancing(model, 2.0) as balance:
        model(x).square().sum().backward()
    assert_close(gradients(model), expected)
    torch.testing.assert_close(balance.total(), 0.3 * balance_by_hand(model, x).detach(), rtol=1e-12, atol=0)
    assert model.balance.load is not None
    assert model.balance.load.sum() == 3 * 7 * chosen
    model(x).square().sum().backward()  # outside, nothing is added
    without = gradients(model)
    assert not torch.allclose(without["router.weight"], expected["router.weight"])


def step(model: nn.Module, pieces: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    objective = NextToken()
    batch = {"inputs": TOKENS, "targets": TOKENS.roll(-1, 1)}
    with balancing(model, 1 / len(TOKENS)) as balance:
        for rows in torch.arange(len(TOKENS)).split(pieces):
            part = {name: value[rows] for name, value in batch.items()}
            (objective.loss(objective.forward(model, part), part)["cross-entropy"] / TOKENS.numel()).backward()
    total = balance.total()
    assert total is not None
    return gradients(model), total


def language_model(chosen: int = 2) -> nn.Module:
    torch.manual_seed(3)
    config = GPT(vocabulary=23, layers=2, width=16, heads=2, experts=4, experts_per_token=chosen, balance=0.5)
    return config.build().double()


@pytest.mark.parametrize("chosen", [1, 2])
def test_micro_batches_and_recomputation_change_nothing(chosen: int) -> None:
    model = language_model(chosen)
    expected, total = step(model, [4])
    found, same = step(model, [1, 3])
    assert_close(found, expected)
    torch.testing.assert_close(same, total, rtol=1e-12, atol=0)
    for recompute in ("full", "selective"):
        set_recompute(model, recompute)
        found, same = step(model, [3, 1])
        assert_close(found, expected)
        torch.testing.assert_close(same, total, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
def test_compiled_blocks_compute_the_same() -> None:
    expected, total = step(language_model(), [4])
    model = language_model()
    compile_regions(model, backend="aot_eager")
    found, same = step(model, [1, 3])
    assert_close(found, expected)
    torch.testing.assert_close(same, total, rtol=1e-12, atol=0)


def test_reading_alone_counts_nothing() -> None:
    model = language_model()
    with balancing(model, 1.0) as balance, torch.no_grad():
        whole = model(TOKENS)
        cache = model.new_cache(torch.zeros(4, dtype=torch.int64), 9)
        parts = [model.features(TOKENS[:, :5], cache), *(model.features(TOKENS[:, [t]], cache) for t in range(5, 9))]
    torch.testing.assert_close(model.head(torch.cat(parts, 1)), whole, rtol=1e-12, atol=1e-12)
    assert balance.total() is None


def test_balance_makes_a_lopsided_router_even() -> None:
    torch.manual_seed(0)
    spread = []
    for coefficient in (0.0, 1.0):
        model = Experts(8, 8, experts=4, chosen=1, balance=coefficient).double()
        model.router.weight.data[0] += 0.5
        optimizer = torch.optim.SGD([model.router.weight], lr=0.5)
        x = torch.rand(4, 32, 8, dtype=torch.float64)
        for _ in range(60):
            with balancing(model, 1 / len(x)):
                (model(x).sum() * 0.0).backward()
            optimizer.step()
            optimizer.zero_grad()
        load = torch.bincount(model.route(x, model.router.weight)[1].flatten(), minlength=4) / (4 * 32)
        spread.append(float(load.max()))
    assert spread[0] > 0.9
    assert spread[1] < 0.6


def test_a_gpt_without_experts_has_no_balance() -> None:
    assert not balances(GPT(vocabulary=5, layers=1).build())
    assert not balances(GPT(vocabulary=5, layers=1, experts=2, balance=0).build())
    assert len(balances(GPT(vocabulary=5, layers=3, experts=2).build())) == 3


@pytest.mark.parametrize(
    "wrong", [{"experts": 2, "experts_per_token": 3}, {"experts": 0}, {"balance": -1.0}, {"experts_per_token": 0}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelwrightError):
        GPT(vocabulary=5, **wrong)  # type: ignore[arg-type]
