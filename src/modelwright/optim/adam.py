"""Adam with coupled L2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from modelwright.optim.adamw import check_betas
from modelwright.optim.fused import fused_or_foreach
from modelwright.optim.groups import check_nonnegative, decay_groups, trainable


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), with torch's fused kernel where there is one.

    Attributes:
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square, below 1.
        eps: added to the root of the second mean.
        l2: added to the gradient, times the weight, as ``weight_decay`` of ``torch.optim.Adam`` (coupled: it
            is divided by the second mean, like the gradient; ``adamw`` decays evenly). Tensors of fewer than
            two dims, such as norms and biases, are left out.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    l2: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("adam", lr=self.lr, eps=self.eps, l2=self.l2)
        check_betas("adam", self.betas)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Torch's Adam over the trainable parameters; an event tells where it cannot be the fused one."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.l2)
        return fused_or_foreach(torch.optim.Adam, groups, lr=self.lr, betas=tuple(self.betas), eps=self.eps)
