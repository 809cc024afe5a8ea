from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.linear_cross_entropy import (
    LinearHead,
    linear_cross_entropies,
    linear_cross_entropy_total,
)

WIDTH, VOCABULARY = 6, 11


def inputs(rows: int = 13, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    features = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    bias = torch.randn(VOCABULARY, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (rows,))
    targets[::4] = -100
    return features, weight, bias, targets


def chunked(features: Tensor, weight: Tensor, bias: Tensor | None, *, rows: int = 3) -> LinearHead:
    head = LinearHead.of(features, weight, bias)
    return LinearHead.of(features, weight, bias, chunk=rows * len(weight) * head.dtype.itemsize)


def plain(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(
        functional.linear(features, weight, bias).double(), targets, reduction="sum", label_smoothing=smoothing
    )


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 14),
    chunk=st.integers(1, 15),
    smoothing=st.sampled_from([0.0, 0.1]),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_chunk_gives_the_plain_loss_and_gradients(
    rows: int, chunk: int, smoothing: float, with_bias: bool, seed: int
) -> None:
    features, weight, some_bias, targets = inputs(rows, seed=seed)
    bias = some_bias if with_bias else None
    given_inputs = [tensor for tensor in (features, weight, bias) if tensor is not None]
    head = chunked(features, weight, bias, rows=chunk)
    expected = plain(features, weight, bias, targets, smoothing)
    wanted = torch.autograd.grad(5 * expected, given_inputs)
    for total in (
        linear_cross_entropy_total(features, head, targets, label_smoothing=smoothing),
        linear_cross_entropies(features, head, targets, label_smoothing=smoothing).sum(),
    ):
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
        for mine, reference in zip(torch.autograd.grad(5 * total, given_inputs), wanted, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [linear_cross_entropy_total, linear_cross_entropies])
def test_gradcheck(function: Any) -> None:
    *tensors, targets = inputs(7)

    def computed(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        loss: Tensor = function(features, chunked(features, weight, bias), targets, label_smoothing=0.1)
        return loss

    assert torch.autograd.gradcheck(computed, tensors)


def test_each_loss_may_have_a_weight_of_its_own() -> None:
    features, weight, bias, targets = inputs()
    scale = torch.rand(len(targets), dtype=torch.float64)
    losses = linear_cross_entropies(features, chunked(features, weight, bias), targets)
    logits = functional.linear(features, weight, bias)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    mine, reference = (torch.autograd.grad((each * scale).sum(), weight)[0] for each in (losses, expected))
    torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-14)


def test_tied_weights_get_both_gradients() -> None:
    _, weight, _, targets = inputs()
    tokens = torch.randint(VOCABULARY, (len(targets),))
    gradients = []
    for chunks in (True, False):
        features = torch.tanh(functional.embedding(tokens, weight))
        loss = (
            linear_cross_entropy_total(features, chunked(features, weight, None), targets)
            if chunks
            else plain(features, weight, None, targets)
        )
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(frozen: int) -> None:
    *tensors, targets = inputs()
    tensors[frozen].requires_grad_(False)
    features, weight, bias = tensors
    linear_cross_entropy_total(features, chunked(features, weight, bias), targets).backward()
    mine = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    plain(features, weight, bias, targets).backward()
    for number, tensor in enumerate(tensors):
        assert (mine[number] is None) == (number == frozen)
        torch.testing.assert_close(mine[number], tensor.grad)


def test_nothing_trainable_or_no_grad_gives_a_constant() -> None:
    features, weight, bias, targets = inputs()
    with torch.no_grad():
        total = linear_cross_entropy_total(features, chunked(features, weight, bias), targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, plain(features, weight, bias, targets).detach(), rtol=1e-12, atol=0)


def test_without_valid_targets_total_and_gradients_are_zero() -> None:
    features, weight, bias, targets = inputs()
    total = linear_cross_entropy_total(features, chunked(features, weight, bias), torch.full_like(targets, -100))
    assert total.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(total, (features, weight, bias)))


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32() -> None:
    features, weight, bias, targets = inputs(64, dtype=torch.float32)
    exact = torch.autograd.grad(plain(*(t.double() for t in (features, weight, bias)), targets), (features, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head = chunked(features, weight, bias, rows=2)
        total = linear_cross_entropy_total(features, head, targets)
        logits = functional.linear(features, weight, bias)
        assert torch.equal(head.logits(features), logits)
    assert head.dtype == torch.bfloat16
    assert total.dtype == torch.float32
    expected = functional.cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    mine = torch.autograd.grad(total, (features, weight))
    for gradient, reference in zip(mine, exact, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - reference).norm() / reference.norm()) < 0.01
    # Had the many chunks been added up in bfloat16, the sum would have no more digits than that.
    assert not torch.equal(mine[1], mine[1].bfloat16().float())


def test_bfloat16_weights_get_gradients_of_their_type() -> None:
    features, weight, bias, targets = inputs(dtype=torch.bfloat16)
    total = linear_cross_entropy_total(features, chunked(features, weight, bias), targets)
    assert total.dtype == torch.float32
    assert {gradient.dtype for gradient in torch.autograd.grad(total, (features, weight, bias))} == {torch.bfloat16}


def test_small_float16_gradients_survive_under_a_loss_scale() -> None:
    features, weight, _, targets = inputs(dtype=torch.float32)
    head = LinearHead(weight=weight, bias=None, dtype=torch.float16)
    scale = 2.0**10
    scaled = linear_cross_entropy_total(features, head, targets) * scale
    mine = torch.autograd.grad(scaled, features)[0] / scale
    expected = torch.autograd.grad(plain(features, weight, None, targets), features)[0]
    assert float((mine - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("function", [linear_cross_entropy_total, linear_cross_entropies])
def test_differentiating_twice_is_refused(function: Any) -> None:
    features, weight, bias, targets = inputs()
    loss = function(features, chunked(features, weight, bias), targets).sum()
    with pytest.raises(ModelwrightError, match="once only") as raised:
        torch.autograd.grad(loss, weight, create_graph=True)
    assert raised.value.remedy == "set objective.logits to full"


def test_the_graph_may_be_used_again() -> None:
    features, weight, bias, targets = inputs()
    total = linear_cross_entropy_total(features, chunked(features, weight, bias), targets)
    first = torch.autograd.grad(total, features, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(2 * total, features)[0], 2 * first)


def test_a_target_that_is_no_class_is_named() -> None:
    features, weight, bias, targets = inputs()
    targets[1] = VOCABULARY
    for function in (linear_cross_entropy_total, linear_cross_entropies):
        with pytest.raises(ModelwrightError, match="outside of the model's 11 classes: 11"):
            function(features, LinearHead.of(features, weight, bias), targets)


class Largest(TorchDispatchMode):
    """The most numbers that a result of any operation had, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return results


@pytest.mark.parametrize("function", [linear_cross_entropy_total, linear_cross_entropies, plain])
def test_full_logits_never_exist(function: Any) -> None:
    features, weight = torch.randn(512, 4, requires_grad=True), torch.randn(256, 4, requires_grad=True)
    targets = torch.randint(256, (512,))
    with Largest() as largest:
        if function is plain:
            plain(features, weight, None, targets).backward()
        else:
            function(features, chunked(features, weight, None, rows=16), targets).sum().backward()
    if function is plain:  # the measure sees them where they do exist
        assert largest.numbers == 512 * 256
    else:
        assert largest.numbers <= 16 * 256
