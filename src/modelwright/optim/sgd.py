"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.groups import check_fraction, check_nonnegative, decay_groups, trainable


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with momentum (Polyak 1964; Nesterov 1983) in torch's form: ``b = m b + g; w = w - lr b``.

    Attributes:
        lr: learning rate.
        momentum: share of the former update that is kept, below 1.
        nesterov: look ahead along the momentum.
        weight_decay: added to the gradient, times the weight (coupled L2, so it passes through the momentum);
            tensors of fewer than two dims, such as norms and biases, are left out.
    """

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("sgd", lr=self.lr, weight_decay=self.weight_decay)
        check_fraction("sgd", momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ModelwrightError("sgd: nesterov needs a momentum", remedy="set momentum, for example 0.9")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Torch's multi-tensor SGD over the trainable parameters.

        Not the fused one: torch's cannot take a parameter that has its first gradient later than others.
        """
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, foreach=True)
