"""Clip gradients by their global norm, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from modelwright.optim.lists import alike

_FEW = 64


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers of all ``gradients``, 0-dim, on the device of the first.

    Computed in float64 where a gradient is float64, else in float32, also for bfloat16 gradients; zero for
    none.
    """
    listed = list(gradients)
    if not listed:
        return torch.zeros(())
    kinds = list(alike(listed))
    wide = torch.float64 if any(members[0].dtype == torch.float64 for members in kinds) else torch.float32
    parts = [part for members in kinds for part in torch._foreach_norm(members, 2, dtype=wide)]
    device = listed[0].device
    if device.type == "cpu" and len(parts) <= _FEW:  # numbers of the host are cheaper than tensors of one number
        return parts[0].fill_(math.sqrt(sum(part.item() ** 2 for part in parts)))
    norms = torch.stack([part if part.device == device else part.to(device) for part in parts])
    norm: Tensor = torch.linalg.vector_norm(norms)
    return norm


def clip_(gradients: Iterable[Tensor], norm: Tensor, maximum: float) -> None:
    """Scale ``gradients`` in place so that their norm, given as ``norm``, is at most ``maximum``.

    A smaller norm leaves every bit as it is. Of an infinite or undefined norm nothing good can be made: the
    gradients then become NaN or zero, and the caller's guard, which reads ``norm``, drops the step.
    """
    if not norm.is_cuda:
        if (value := norm.item()) > maximum:
            _scale(gradients, maximum / value)
        return
    factor = maximum / norm.clamp(min=maximum)
    for members in alike(list(gradients)):
        torch._foreach_mul_(members, factor.to(members[0].device))


def _scale(gradients: Iterable[Tensor], factor: float) -> None:
    for members in alike(list(gradients)):
        torch._foreach_mul_(members, factor)
