from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives import cross_entropy
from modelwright.objectives.cross_entropy import cross_entropies, cross_entropy_total


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for a few logits, which torch's own function would be given otherwise."""
    monkeypatch.setattr(cross_entropy, "_SMALL", 0)
    monkeypatch.setattr(cross_entropy, "_BLOCK", 16)


def logits_and_targets(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits, targets = 4 * torch.randn(3, 5, 7, dtype=torch.float64), torch.randint(7, (3, 5))
    targets[0, 2:] = targets[2, 1] = -100
    return logits.to(dtype).requires_grad_(), targets


def reference(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """One-hot targets, written out."""
    wanted = functional.one_hot(targets.clamp(min=0), logits.shape[-1]).double()
    wanted = (1 - smoothing) * wanted + smoothing / logits.shape[-1]
    losses = -(wanted * (logits.double() - logits.double().exp().sum(-1, keepdim=True).log())).sum(-1)
    return losses * (targets != -100)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_and_gradients_equal_the_textbook(smoothing: float) -> None:
    logits, targets = logits_and_targets()
    weights = torch.rand(3, 5, dtype=torch.float64)
    losses, expected = (
        cross_entropies(logits, targets, label_smoothing=smoothing),
        reference(logits, targets, smoothing),
    )
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad((each * weights).sum(), logits)[0] for each in (losses, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_differentiable_twice(smoothing: float) -> None:
    logits, targets = logits_and_targets()
    assert torch.autograd.gradcheck(lambda x: cross_entropies(x, targets, label_smoothing=smoothing), logits)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropies(x, targets, label_smoothing=smoothing), logits)


@pytest.mark.usefixtures("small_blocks")
def test_bfloat16_logits_get_losses_in_float32_and_gradients_in_their_own_type() -> None:
    logits, targets = logits_and_targets(torch.bfloat16)
    total = cross_entropy_total(logits, targets)
    expected = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    mine, torchs = (torch.autograd.grad(each, logits)[0] for each in (total, expected))
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, torchs)


@pytest.mark.usefixtures("small_blocks")
def test_extreme_and_masked_logits_are_as_torch_has_them() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-torch.inf, 3.0, 2.0], [0.0, 0.0, -torch.inf]], requires_grad=True)
    targets = torch.tensor([1, 1, 2])
    mine = cross_entropies(logits, targets)
    torchs = functional.cross_entropy(logits, targets, reduction="none")
    assert torch.equal(mine, torchs)
    gradients = [torch.autograd.grad(each[:2].sum(), logits)[0] for each in (mine, torchs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.usefixtures("small_blocks")
def test_inside_of_torch_func_it_still_works() -> None:
    logits, targets = logits_and_targets()
    gradients = torch.func.vmap(torch.func.grad(cross_entropy_total))(logits.detach(), targets)
    torch.testing.assert_close(gradients, torch.autograd.grad(cross_entropy_total(logits, targets), logits)[0])


@pytest.mark.parametrize("wrong", [7, -1])
def test_a_target_that_is_no_class_is_named(wrong: int) -> None:
    logits, targets = logits_and_targets()
    targets[1, 1] = wrong
    with pytest.raises(ModelwrightError, match=f"outside of the model's 7 classes: {wrong}") as raised:
        cross_entropy_total(logits, targets)
    assert "as many outputs" in raised.value.remedy


def test_no_rows_give_nothing() -> None:
    logits = torch.zeros(0, 2**17, requires_grad=True)
    total = cross_entropy_total(logits, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
