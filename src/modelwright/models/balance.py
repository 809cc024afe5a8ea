"""Balance: the wish that experts be used evenly, as a loss whose gradient rides on the activations.

In the house's form of a loss (a total over samples, divided by the samples of the whole step) it adds to what is
minimised, for each layer and each sample, ``coefficient * experts * sum(load_i * share_i)``: ``load_i`` is the part of
the sample's choices that fell on expert i, ``share_i`` the router's mean probability of it. It is 1 times the
coefficient where all experts are used alike. Taken per sample, samples do not interact: micro-batches, accumulation and
data-parallel ranks all give the gradient of the whole batch. Source: the sequence-wise balance of DeepSeek-V3
(arXiv:2412.19437, equations 17 to 20), after Fedus et al. 2021 (arXiv:2101.03961).

A stage of a pipeline never sees the loss, so the gradient is added where the router's probabilities pass, in the
backward; there the value is noted too. A block that is recomputed, an evaluation and a text that is written so count
nothing twice, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BALANCE = "expert-balance"
"""The name of the term in a step's losses; its coefficients are applied already, its count is the samples."""


@dataclass(frozen=True)
class Sharing:
    """The ranks that work on the same samples.

    Attributes:
        total: sums a tensor over those that have other positions of them.
        ranks: how many these are; they have equally many positions.
        adds: whether this rank adds the balance's gradient, of those whose gradients for the same positions are summed.
    """

    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ranks: int = 1
    adds: bool = True


ALONE = Sharing()


class Balance:
    """How one layer wants its experts used; set for a step by :func:`balancing`.

    Attributes:
        coefficient: of the layer's loss.
        weight: what the step multiplies totals by; 0 outside of a step.
        totals: coefficient x loss, summed over the samples of each micro-batch that was differentiated in the step.
        load: how many choices fell on each expert in these, ``[experts]``; ``None`` before the first.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.weight: Tensor | float = 0.0
        self.totals: list[Tensor] = []
        self.load: Tensor | None = None

    def __call__(self, shares: Tensor, chosen: Tensor, sharing: Sharing = ALONE) -> Tensor:
        """``shares [batch, time, experts]``, whose gradient will hold the balance too.

        Args:
            shares: the router's probabilities.
            chosen: numbers of the experts that were chosen ``[batch, time, k]``.
            sharing: who has other positions of the samples.
        """
        if not self.coefficient or not shares.requires_grad:
            return shares
        return _Balanced.apply(shares, chosen, self, sharing)  # type: ignore[no-any-return, no-untyped-call]

    def note(self, total: Tensor, load: Tensor) -> None:
        """A micro-batch was differentiated."""
        self.totals.append(self.coefficient * total)
        self.load = load if self.load is None else self.load + load


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares: Tensor, chosen: Tensor, balance: Balance, sharing: Sharing) -> Tensor:
        _, time, experts = shares.shape
        picked = chosen.flatten(1)
        load = shares.new_zeros(len(shares), experts).scatter_add_(
            1, picked, torch.ones_like(picked, dtype=shares.dtype)
        )
        load, means = sharing.total(torch.stack((load, shares.mean(1))))  # of all positions of a sample
        slope = load * (experts / (picked.size(1) * sharing.ranks))
        total = (slope * means).sum() / sharing.ranks
        ctx.save_for_backward(slope / (time * sharing.ranks), total, load.sum(0))
        ctx.balance, ctx.adds = balance, sharing.adds
        return shares.view_as(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        slope, total, load = ctx.saved_tensors
        balance = ctx.balance
        balance.note(total, load)
        if ctx.adds:
            gradient = gradient + balance.weight * balance.coefficient * slope.unsqueeze(1)
        return gradient, None, None, None


def balances(model: nn.Module) -> list[Balance]:
    """Those of the model's layers that have a coefficient."""
    found = [getattr(module, "balance", None) for module in model.modules()]
    return [balance for balance in found if isinstance(balance, Balance) and balance.coefficient]


class Balancing:
    """What the layers noted in a step."""

    def __init__(self, layers: list[Balance]) -> None:
        self._layers = layers

    def total(self) -> Tensor | None:
        """The sum over layers and samples, coefficients applied, float64; ``None``: nothing was differentiated."""
        totals = [total for layer in self._layers for total in layer.totals]
        return torch.stack([total.double() for total in totals]).sum() if totals else None


@contextmanager
def balancing(model: nn.Module, weight: Tensor | float) -> Iterator[Balancing]:
    """Backward passes inside add ``weight`` times the balance to what is minimised, without changing the loss's value.

    Args:
        model: any; without experts, nothing happens.
        weight: 1 / samples of the whole step, times the scale of its loss.
    """
    layers = balances(model)
    for layer in layers:
        layer.weight, layer.totals, layer.load = weight, [], None
    try:
        yield Balancing(layers)
    finally:
        for layer in layers:
            layer.weight = 0.0
