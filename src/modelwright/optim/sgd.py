"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.groups import check_fraction, check_nonnegative, decay_groups, trainable
from modelwright.optim.lists import ListOptimizer


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with momentum (Polyak 1964; Nesterov 1983) in torch's form: ``b = m b + g; w = w - lr b``.

    Both decays leave out tensors of fewer than two dims, such as norms and biases.

    Attributes:
        lr: learning rate.
        momentum: share of the former update that is kept, below 1.
        nesterov: look ahead along the momentum.
        l2: added to the gradient, times the weight (coupled, so it passes through the momentum); what
            ``torch.optim.SGD`` calls ``weight_decay``.
        weight_decay: share of a weight that is taken off in each step, times ``lr`` (decoupled; SGDW of
            Loshchilov & Hutter 2019, arXiv:1711.05101).
    """

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    l2: float = 0.0
    weight_decay: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("sgd", lr=self.lr, l2=self.l2, weight_decay=self.weight_decay)
        check_fraction("sgd", momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ModelwrightError("sgd: nesterov needs a momentum", remedy="set momentum, for example 0.9")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Multi-tensor SGD over the trainable parameters; without weight decay its numbers are torch's."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay, l2=self.l2)
        return DecayingSGD(groups, momentum=self.momentum, nesterov=self.nesterov)


class DecayingSGD(ListOptimizer):
    """SGD with coupled and decoupled decay.

    Args:
        groups: each with ``lr``, ``weight_decay`` (decoupled) and ``l2`` (coupled).
        momentum: share of the former update that is kept.
        nesterov: look ahead along the momentum.
    """

    state_keys: ClassVar[frozenset[str]] = frozenset({"momentum_buffer"})

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"momentum": momentum, "nesterov": nesterov})

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """One step; the decoupled decay comes first, the coupled one is of the weights before it."""
        lr = group["lr"]
        if group["l2"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["l2"]))
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        if group["momentum"]:
            gradients = self._with_momentum(parameters, gradients, group)
        torch._foreach_add_(parameters, gradients, alpha=-lr)

    def _with_momentum(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        buffers = self.kept(parameters, "momentum_buffer")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if not group["nesterov"]:
            return buffers
        return list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
