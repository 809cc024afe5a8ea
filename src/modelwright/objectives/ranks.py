"""Where a target stands among the classes."""

from __future__ import annotations

import torch
from torch import Tensor


def first_ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes come before the target: larger logits, and among equals those of a smaller number.

    So rank 0 is what ``argmax`` finds, and a model that finds all classes equal gets no credit for it.

    Args:
        logits: ``[..., classes]``.
        targets: int64 ``[...]``; what -100 gives is without meaning.
    """
    place = targets.clamp(min=0).unsqueeze(-1)
    own = logits.gather(-1, place)
    equal_before = (logits == own) & (torch.arange(logits.shape[-1], device=logits.device) < place)
    return ((logits > own) | equal_before).sum(-1)
