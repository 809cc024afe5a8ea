"""What a trace assumes where code asks for the content of a tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_SCALAR = "aten._local_scalar_dense.default"
_NONZERO = "aten.nonzero.default"
_SELECT = "aten.masked_select.default"
_INDEX = "aten.index.Tensor"
_PUT = ("aten.index_put.default", "aten.index_put_.default")


def depends_on_data(name: str, args: Any, kwargs: Any) -> bool:
    """Whether the operator, on meta tensors, needs content that is not there."""
    if not any(isinstance(each, Tensor) and each.device.type == "meta" for each in args):
        return False
    if name in (_SCALAR, _NONZERO, _SELECT):
        return True
    return name in (_INDEX, *_PUT) and any(_is_mask(each) for each in args[1])


def assume(name: str, func: Any, args: Any, kwargs: Any) -> tuple[Any, str]:
    """A result and a sentence that says what it assumes: conditions hold, numbers are 1, masks take everything."""
    tensor: Tensor = args[0]
    if name == _SCALAR:
        value: Any = True if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1
        return value, f"the number asked for was taken to be {value}"
    if name == _NONZERO:
        return tensor.new_empty(
            (tensor.numel(), tensor.dim()), dtype=torch.int64
        ), "all entries were taken to be nonzero"
    if name == _SELECT:
        size = math.prod(torch.broadcast_shapes(tensor.shape, args[1].shape))  # type: ignore[no-untyped-call]
        return tensor.new_empty((size,)), "the mask was taken to select everything"
    if name == _INDEX:
        return _indexed(tensor, args[1]), "the mask was taken to select everything"
    return (tensor if name.endswith("_.default") else torch.empty_like(tensor)), "the mask was not looked at"


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _indexed(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
    """What a single mask that is true everywhere takes; other indices beside it are as masks of their dims."""
    masks = [index for index in indices if index is not None]
    first = next(place for place, index in enumerate(indices) if index is not None)
    taken = sum(index.dim() if _is_mask(index) else 1 for index in masks)
    size = max(index.numel() for index in masks)
    return tensor.new_empty((*tensor.shape[:first], size, *tensor.shape[first + taken :]))
