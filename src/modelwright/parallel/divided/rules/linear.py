"""Linear layers under autocast: what several of them read is rounded once, gathered once, and its gradient summed once.

Autocast itself would round it for each; only weights are rounded once there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.parallel.divided.divided import Divided, find_axes
from modelwright.parallel.divided.registry import FUNCTIONS


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See :func:`torch.nn.functional.linear`."""
    return functional.linear(_rounded(input, weight), weight, bias)


FUNCTIONS[functional.linear] = linear


def _rounded(x: Tensor, weight: Tensor) -> Tensor:
    """What autocast would make of it; the same tensor if it did so last."""
    dtype, axes = autocast_type(x), find_axes((weight, x))
    if dtype is None or axes is None or dtype == x.dtype or x.is_inference():
        return x
    stamp = x.value.writes.stamp if isinstance(x, Divided) else 0
    key = (dtype, stamp, x._version, x.requires_grad, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    if axes.rounded is None or axes.rounded[0] is not x or axes.rounded[1] != key:
        axes.rounded = (x, key, x.to(dtype))
    return axes.rounded[2]


def autocast_type(x: Tensor) -> torch.dtype | None:
    """That in which autocast computes products of the tensor, if it does."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind) if x.is_floating_point() and x.dtype != torch.float64 else None
