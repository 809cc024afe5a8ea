"""Lion: steps of equal length for every number, in the direction of a sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.optim.adamw import check_betas
from modelwright.optim.groups import check_nonnegative, decay_groups, trainable
from modelwright.optim.lists import ListOptimizer


@dataclass(frozen=True, kw_only=True)
class Lion:
    """Lion (Chen et al. 2023, arXiv:2302.06675): ``w = w - lr (sign(b1 m + (1 - b1) g) + decay w)``.

    It keeps one mean, ``m = b2 m + (1 - b2) g``. A good ``lr`` is a third to a tenth of AdamW's, and a good
    ``weight_decay`` as many times larger.

    Attributes:
        lr: learning rate: how far each number moves in a step.
        betas: share of the mean in the direction, and decay of the mean, below 1.
        weight_decay: share of a weight that is taken off in each step, times ``lr``; tensors of fewer than two
            dims, such as norms and biases, are left out.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("lion", lr=self.lr, weight_decay=self.weight_decay)
        check_betas("lion", self.betas)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Multi-tensor Lion over the trainable parameters."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay)
        return SignMomentum(groups, betas=(self.betas[0], self.betas[1]))


class SignMomentum(ListOptimizer):
    """Lion's update.

    Args:
        groups: each with ``lr`` and ``weight_decay``.
        betas: share of the mean in the direction, and decay of the mean.
    """

    state_keys: ClassVar[frozenset[str]] = frozenset({"exp_avg"})

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """One step."""
        lr, (share, decay) = group["lr"], group["betas"]
        means = self.kept(parameters, "exp_avg")
        directions = torch._foreach_lerp(means, gradients, 1 - share)
        torch._foreach_sign_(directions)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-lr)
        torch._foreach_lerp_(means, gradients, 1 - decay)
