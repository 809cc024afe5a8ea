"""Linear layers and convolutions whose matrix is a product of two thin ones: ``y = B(A x) + b``.

A layer of ``outputs x inputs`` weights holds ``rank * (outputs + inputs)`` then. A convolution becomes one of the same
kernel to ``rank`` channels and one of 1x1 behind it (Zhang et al. 2016, arXiv:1505.06798), each group by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from modelwright.base.errors import ModelwrightError
from modelwright.reforms.matrices import (
    CONVOLUTIONS,
    is_convolution,
    is_linear,
    is_transposed_linear,
    matrix_of,
    shape_of,
)


class Factored(nn.Module):
    """What :class:`FactoredLinear` and :class:`FactoredConvolution` have in common.

    Attributes:
        rank: how many numbers go from the first to the second, of each group.
        groups: how many pairs of matrices there are.
        first: A, without bias.
        second: B, with the bias if there is one.
    """

    rank: int
    groups: int
    first: nn.Module
    second: nn.Module

    def forward(self, inputs: Tensor) -> Tensor:
        """The same shapes as those of the layer that it stands in for."""
        return self.second(self.first(inputs))  # type: ignore[no-any-return]

    @property
    def bias(self) -> nn.Parameter | None:
        """That of the second, for code that looks at a layer's bias."""
        return self.second.bias  # type: ignore[return-value]

    @property
    def weight(self) -> Tensor:
        """The product, in the shape of the layer's own weight; computed each time."""
        first: Any = self.first.weight
        second: Any = self.second.weight
        product: Tensor = second.reshape(self.groups, -1, self.rank) @ first.reshape(self.groups, self.rank, -1)
        return product.reshape(-1, *first.shape[1:])


class FactoredLinear(Factored):
    """A linear layer in two: ``[..., in_features] -> [..., rank] -> [..., out_features]``.

    Args:
        in_features: as of ``nn.Linear``.
        out_features: the same.
        rank: of the product.
        bias: whether there is one.
        device: of the weights, which are not set yet.
        dtype: of the weights.
    """

    groups = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        place: dict[str, Any] = {"device": device or torch.get_default_device(), "dtype": dtype}
        self.first = _unset(nn.Linear, in_features, rank, bias=False, **place)
        self.second = _unset(nn.Linear, rank, out_features, bias=bias, **place)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"rank={self.rank}"


class FactoredConvolution(Factored):
    """A convolution in two: its kernel to ``rank`` channels of each group, and 1x1 from them to the outputs.

    Args:
        like: the convolution that it stands in for.
        outputs: its output channels.
        rank: of the product.
        bias: whether there is one.
    """

    def __init__(self, like: nn.Conv1d | nn.Conv2d | nn.Conv3d, outputs: int, rank: int, *, bias: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.rank, self.groups = like.in_channels, outputs, rank, like.groups
        kind = CONVOLUTIONS[like.weight.dim() - 2]
        place: dict[str, Any] = {"device": like.weight.device, "dtype": like.weight.dtype, "groups": like.groups}
        window = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        between = rank * like.groups
        self.first = _unset(kind, like.in_channels, between, like.kernel_size, bias=False, **window, **place)
        self.second = _unset(kind, between, outputs, 1, bias=bias, **place)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"rank={self.rank}"


def can_be_factored(module: nn.Module) -> bool:
    """Whether it is a layer of a kind that :func:`factored` knows, factored already or not."""
    return isinstance(module, Factored) or is_linear(module) or is_transposed_linear(module) or is_convolution(module)


def factored(old: nn.Module, *, rank: int) -> Factored:
    """What stands in for a layer, its weights not set; a replacement of :mod:`modelwright.models.change`.

    Raises:
        ModelwrightError: the layer is of another kind, or its matrix is smaller than the rank.
    """
    if not can_be_factored(old):
        raise ModelwrightError(
            f"a {type(old).__name__} has no factors",
            remedy="factorise nn.Linear, Conv1D of transformers, and convolutions that are not transposed",
        )
    groups, outputs, columns = whole_shape(old)
    largest = largest_rank(old)
    if not 1 <= rank <= largest:
        raise ModelwrightError(f"the rank of a matrix {outputs} x {columns} is from 1 to {largest}, not {rank}")
    bias, like = old.bias is not None, _first(old)
    if is_convolution(like):
        new: Factored = FactoredConvolution(like, groups * outputs, rank, bias=bias)
    else:
        place: Any = {"device": like.weight.device, "dtype": like.weight.dtype}
        new = FactoredLinear(columns, outputs, rank, bias=bias, **place)
    return _trained_as(new, like.weight, old.bias)  # type: ignore[return-value, arg-type]


def merged(old: nn.Module) -> nn.Module:
    """One layer instead of two, with the product of both; the way back from :func:`factored`.

    Raises:
        ModelwrightError: the module is not factored.
    """
    if not isinstance(old, Factored):
        raise ModelwrightError(f"a {type(old).__name__} is not factored, and cannot be merged")
    weight, first, bias = old.weight.detach(), old.first, old.bias
    place: Any = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    if isinstance(first, nn.Linear):
        new: Any = _unset(nn.Linear, weight.shape[1], weight.shape[0], **place)
    else:
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        window: Any = {name: getattr(first, name) for name in names}
        new = _unset(CONVOLUTIONS[weight.dim() - 2], first.in_channels, weight.shape[0], **window, **place)
    set_matrix(new, whole_matrix(old), bias)
    return _trained_as(new, first.weight, bias)  # type: ignore[arg-type]


def _first(module: Any) -> Any:
    """What reads the inputs."""
    return module.first if isinstance(module, Factored) else module


def whole_matrix(module: Any) -> Tensor:
    """:func:`~modelwright.reforms.matrices.matrix_of` of a layer, factored or not."""
    return matrix_of(module.second) @ matrix_of(module.first) if isinstance(module, Factored) else matrix_of(module)


def whole_shape(module: Any) -> tuple[int, int, int]:
    """``(groups, outputs, columns)`` of :func:`whole_matrix`."""
    if not isinstance(module, Factored):
        return shape_of(module)
    groups, outputs, _ = shape_of(module.second)
    return groups, outputs, shape_of(module.first)[2]


def largest_rank(module: Any) -> int:
    """The rank that a layer has at most."""
    _, outputs, columns = whole_shape(module)
    return min(outputs, columns, module.rank) if isinstance(module, Factored) else min(outputs, columns)


def parameters_of(module: Any) -> int:
    """Weights of a layer as it is, without its bias."""
    parts: tuple[Any, ...] = (module.first, module.second) if isinstance(module, Factored) else (module,)
    return int(sum(part.weight.numel() for part in parts))


def parameters_per_rank(module: Any) -> int:
    """Weights of a factored layer, without its bias, for each rank."""
    groups, outputs, columns = whole_shape(module)
    return groups * (outputs + columns)


@torch.no_grad()
def set_factors(module: Factored, first: Tensor, second: Tensor, bias: Tensor | None) -> None:
    """Give a layer its factors: ``first [groups, rank, columns]``, ``second [groups, outputs, rank]``."""
    set_matrix(module.first, first, None)
    set_matrix(module.second, second, bias)


@torch.no_grad()
def set_matrix(module: Any, matrix: Tensor, bias: Tensor | None) -> None:
    """Give a layer its matrix ``[groups, outputs, columns]``, and its bias."""
    module.weight.copy_(matrix.reshape(module.weight.shape))
    if bias is not None:
        module.bias.copy_(bias)


def _trained_as(new: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Frozen where the weight, or the bias, is."""
    for name, each in new.named_parameters():
        told = bias if bias is not None and name.endswith("bias") else weight
        each.requires_grad_(told.requires_grad)
    return new


def _unset(kind: type[nn.Module], *sizes: Any, **settings: Any) -> nn.Module:
    """A module whose weights are not set, made without drawing random numbers."""
    return skip_init(kind, *sizes, **settings)  # type: ignore[no-any-return, no-untyped-call]
