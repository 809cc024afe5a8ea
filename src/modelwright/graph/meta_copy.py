"""Copies without memory: of a module or an example, with the same shapes and ties, on the meta device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_SMALL = 65536


def on_meta(tensor: Tensor) -> Tensor:
    """A meta tensor with shape, strides and dtype of ``tensor``."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def copy_to_meta(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose parameters and buffers are on the meta device; ties are kept, hooks too.

    Small tensors that no module registered keep their content: code may ask for it.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(on_meta(parameter), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = on_meta(buffer)
    with torch.no_grad(), _CopyUnregistered():
        return copy.deepcopy(model, memo)


def example_to_meta(example: Any) -> Any:
    """``example`` with each tensor on the meta device; what is no tensor stays."""
    return pytree.tree_map_only(torch.Tensor, lambda each: on_meta(each.detach()), example)


class _CopyUnregistered(TorchFunctionMode):
    """Large tensors that are copied become meta tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            large = tensor.numel() > _SMALL or tensor.device.type == "meta"
            memo[id(tensor)] = on_meta(tensor) if large else tensor.detach().cpu().clone()
        return memo[id(tensor)]
