"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.fused import fused_or_foreach
from modelwright.optim.groups import check_fraction, check_nonnegative, decay_groups, trainable


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), with torch's fused kernel where there is one.

    Attributes:
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square, below 1.
        eps: added to the root of the second mean.
        weight_decay: share of a weight that is taken off in each step, times ``lr``; tensors of fewer than
            two dims, such as norms and biases, are left out.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("adamw", lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        check_betas("adamw", self.betas)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Torch's AdamW over the trainable parameters; an event tells where it cannot be the fused one."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay)
        return fused_or_foreach(torch.optim.AdamW, groups, lr=self.lr, betas=tuple(self.betas), eps=self.eps)


def check_betas(technique: str, betas: tuple[float, float]) -> None:
    """Refuse anything but two numbers in [0, 1)."""
    if len(betas) != 2:
        raise ModelwrightError(f"{technique}: betas are two numbers, not {len(betas)}")
    check_fraction(technique, **{"betas[0]": betas[0], "betas[1]": betas[1]})
