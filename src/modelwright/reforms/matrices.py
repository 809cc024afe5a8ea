"""Linear layers and convolutions seen as matrices: ``outputs = matrix @ columns + bias`` at each position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLUTION_FORWARDS = tuple(kind.forward for kind in CONVOLUTIONS.values())


def is_linear(module: nn.Module) -> bool:
    """Whether it is an ``nn.Linear``, or a subclass that computes the same."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is a ``Conv1D`` of transformers: a linear layer whose weight lies as ``[inputs, outputs]``."""
    return type(module).__name__ == "Conv1D" and {"nf", "nx"} <= vars(module).keys()


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution of torch over one, two or three dims, not transposed."""
    return isinstance(module, tuple(CONVOLUTIONS.values())) and type(module).forward in _CONVOLUTION_FORWARDS


def matrix_of(module: Any) -> Tensor:
    """The weight of a layer, in float64, as ``[groups, outputs, columns]``; sizes are those of one group."""
    weight: Tensor = module.weight.detach().double()
    if is_transposed_linear(module):
        return weight.T[None]
    return weight.reshape(groups_of(module), weight.shape[0] // groups_of(module), -1)


def shape_of(module: Any) -> tuple[int, int, int]:
    """``(groups, outputs, columns)`` of :func:`matrix_of`."""
    groups, shape = groups_of(module), module.weight.shape
    if is_transposed_linear(module):
        return 1, shape[1], shape[0]
    return groups, shape[0] // groups, math.prod(shape[1:])


def groups_of(module: Any) -> int:
    """Into how many matrices the layer falls; 1 but for grouped convolutions."""
    return int(getattr(module, "groups", 1))


def columns_of(module: Any, inputs: Tensor) -> Tensor:
    """What the matrices of a layer are multiplied with: ``[groups, positions, columns]``.

    A convolution multiplies its kernel with a window at each position; with windows laid out as rows it is a matrix.
    """
    if not is_convolution(module):
        return inputs.reshape(1, -1, inputs.shape[-1])
    windows = _windows(module, inputs)  # [batch, channels, *positions, *kernel]
    dims = len(module.kernel_size)
    batch, channels, *sizes = windows.shape
    groups = groups_of(module)
    split = windows.reshape(batch, groups, channels // groups, math.prod(sizes[:dims]), math.prod(sizes[dims:]))
    return split.permute(1, 0, 3, 2, 4).reshape(groups, batch * split.shape[3], -1)


def _windows(module: Any, inputs: Tensor) -> Tensor:
    dims = len(module.kernel_size)
    whole = inputs if inputs.dim() == dims + 2 else inputs[None]  # torch allows one sample without its batch
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(whole, _padding(module), mode=mode)
    for dim, (size, step, far) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True)):
        padded = padded.unfold(dim + 2, (size - 1) * far + 1, step)[..., ::far]
    return padded


def _padding(module: Any) -> list[int]:
    """As ``functional.pad`` wants it, from the last dim to the first."""
    if module.padding == "valid":
        return [0] * 2 * len(module.kernel_size)
    if module.padding == "same":
        spread = [far * (size - 1) for size, far in zip(module.kernel_size, module.dilation, strict=True)]
        return [part for each in reversed(spread) for part in (each // 2, each - each // 2)]
    return [each for each in reversed(module.padding) for _ in range(2)]


def plain(weight: Tensor) -> bool:
    """Whether a tensor is made of floating-point numbers that lie here, one by one."""
    ordinary = type(weight.data) is Tensor and weight.layout is torch.strided
    return ordinary and weight.is_floating_point() and weight.dtype.itemsize > 1
