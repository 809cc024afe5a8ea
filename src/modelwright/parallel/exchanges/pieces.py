"""A flat tensor in as many equal pieces as there are ranks, and numbers that travel in a shorter type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def in_pieces(tensor: Tensor, count: int) -> Tensor:
    """``[numbers]`` as ``[count, numbers of a piece]``; a copy with zeros at the end where it does not divide."""
    return functional.pad(tensor, (0, -tensor.numel() % count)).view(count, -1)


def shortened(tensor: Tensor, wire: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """The tensor as it travels, and what the rounding leaves out; nothing where it travels as it is."""
    if wire is None:
        return tensor, None
    short = tensor.to(wire)
    return short, tensor - short
