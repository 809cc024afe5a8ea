"""Adafactor: the second mean of a matrix as rows and columns only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.groups import check_nonnegative, decay_groups, trainable


@dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) as torch has it.

    It keeps ``rows + columns`` numbers for a matrix where Adam keeps two matrices. A step is as long as ``lr`` times
    the tensor's own size. On a GPU the host reads two numbers of each tensor in each step, and so waits for it.

    Attributes:
        lr: learning rate, relative to the root mean square of each tensor; at step ``t`` at most ``1 / sqrt(t)``.
        beta2_decay: the second mean keeps ``1 - t ** beta2_decay`` of itself at step ``t``.
        eps: smallest root of a second mean; null for the machine's precision of the parameter's type.
        smallest: smallest root mean square that ``lr`` is multiplied with, so that zeros can move.
        clip: an update whose root mean square is larger is scaled down to it; at least 1.
        weight_decay: share of a weight that is taken off in each step, times ``lr``; tensors of fewer than two
            dims, such as norms and biases, are left out.
    """

    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps: float | None = None
    smallest: float = 1e-3
    clip: float = 1.0
    weight_decay: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "tensors"

    def __post_init__(self) -> None:
        check_nonnegative("adafactor", lr=self.lr, eps=self.eps or 0.0, smallest=self.smallest)
        check_nonnegative("adafactor", weight_decay=self.weight_decay)
        if not self.beta2_decay <= 0:
            raise ModelwrightError(f"adafactor: beta2_decay is at most 0, not {self.beta2_decay}")
        if not self.clip >= 1:
            raise ModelwrightError(f"adafactor: clip is at least 1, not {self.clip}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Torch's multi-tensor Adafactor over the trainable parameters."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.Adafactor(
            groups,
            lr=self.lr,
            beta2_decay=self.beta2_decay,
            eps=(self.eps, self.smallest),
            d=self.clip,
            foreach=True,
        )
