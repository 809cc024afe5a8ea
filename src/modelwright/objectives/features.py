"""What a model's head reads, in the place of logits: the head is applied where the loss is, some rows at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modelwright.objectives.cross_entropy import cross_entropies, widened_type
from modelwright.objectives.linear_cross_entropy import (
    LinearHead,
    chunks,
    linear_cross_entropies,
    linear_cross_entropy_total,
)
from modelwright.objectives.ranks import first_ranks


@dataclass(eq=False)
class _Scan:
    """What one pass over the head found for some targets."""

    targets: Tensor
    losses: Tensor
    likeliest: Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """Outputs of a model short of its head; stands for logits ``[..., vocabulary]`` that are made some at a time.

    Without gradients, what a pass over the head found is kept, so that loss and metrics of an evaluation share it.

    Attributes:
        features: ``[..., width]``.
        head: what makes logits of them.
    """

    features: Tensor
    head: LinearHead
    _scans: list[_Scan] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> torch.Size:
        """That of the logits."""
        return torch.Size((*self.features.shape[:-1], len(self.head.weight)))

    def logits(self) -> Tensor:
        """All logits at once, ``[..., vocabulary]``, for who cannot do without; differentiable."""
        return self.head.logits(self.features)

    def total(self, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy in nats, summed over the valid targets ``[...]``; differentiable once."""
        if not torch.is_grad_enabled() and not label_smoothing:
            return self._scan(targets).losses.sum()
        return linear_cross_entropy_total(self.features, self.head, targets, label_smoothing=label_smoothing)

    def cross_entropies(self, targets: Tensor) -> Tensor:
        """Cross-entropy of each target ``[...]``, 0 where it is -100; differentiable once."""
        if not torch.is_grad_enabled():
            return self._scan(targets).losses
        return linear_cross_entropies(self.features, self.head, targets)

    @torch.no_grad()
    def likeliest(self) -> Tensor:
        """The class with the largest logit, int64 ``[...]``; the first one among equals."""
        if self._scans:
            return self._scans[-1].likeliest
        rows = self.features.flatten(0, -2)
        found = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for part, logits in chunks(rows, self.head):
            found[part] = logits.argmax(-1)
        return found.view(self.features.shape[:-1])

    @torch.no_grad()
    def ranks(self, targets: Tensor) -> Tensor:
        """How many classes come before the target, int64 ``[...]``; see :func:`~.ranks.first_ranks`."""
        rows, flat = self.features.flatten(0, -2), targets.flatten()
        found = torch.empty_like(flat)
        for part, logits in chunks(rows, self.head):
            found[part] = first_ranks(logits, flat[part])
        return found.view(targets.shape)

    def _scan(self, targets: Tensor) -> _Scan:
        if not self._scans or self._scans[-1].targets is not targets:
            self._scans[:] = [self._scanned(targets)]
        return self._scans[-1]

    def _scanned(self, targets: Tensor) -> _Scan:
        rows, flat = self.features.flatten(0, -2), targets.flatten()
        losses = torch.empty(len(rows), dtype=widened_type(self.head.dtype), device=rows.device)
        likeliest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for part, logits in chunks(rows, self.head):
            losses[part] = cross_entropies(logits, flat[part])
            likeliest[part] = logits.argmax(-1)
        return _Scan(targets, losses.view(targets.shape), likeliest.view(targets.shape))
