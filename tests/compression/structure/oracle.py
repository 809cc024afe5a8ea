"""What a model must compute without some of its units: the original, with all that they contribute taken away."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tests.compression.structure.architectures import read
from tests.graph.zoo import InDouble
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelwright.compression.structure import UnitClass, Units

Removed = Mapping[int, Sequence[int]]


def output(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    with torch.no_grad(), InDouble():
        return read(model(**inputs))


def masked_output(model: nn.Module, inputs: Mapping[str, Any], units: Units, removed: Removed) -> Tensor:
    """All numbers of the removed units are zero, and norms do not count them."""
    changed, kept = copy.deepcopy(model), {}
    tensors = dict(changed.named_parameters(remove_duplicate=False))
    for number, gone in removed.items():
        for place in units[number].parameters:
            flat = torch.from_numpy(place.places[list(gone)].reshape(-1))
            with torch.no_grad():
                tensors[place.tensor].index_fill_(place.dim, flat, 0.0)
            size = tensors[place.tensor].shape[place.dim]
            kept.setdefault((place.tensor, place.dim), torch.ones(size, dtype=torch.bool))[flat] = False
    masks: dict[int, list[Tensor]] = {}
    for mask in kept.values():
        masks.setdefault(len(mask), []).append(mask)
    with Uncounted(masks):
        return output(changed, inputs)


def pruned(model: nn.Module, units: Units, removed: Removed) -> nn.Module:
    keep = {number: set(range(units[number].size)) - set(gone) for number, gone in removed.items()}
    changed = copy.deepcopy(model)
    units.change(keep).apply(changed)
    return changed


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def some_of(found: UnitClass, seed: int = 0) -> list[int]:
    """Units to remove: some, anywhere, not all."""
    generator = torch.Generator().manual_seed(found.number + seed)
    count = max(1, found.size // 3)
    return sorted(torch.randperm(found.size, generator=generator)[:count].tolist())


class Uncounted(TorchFunctionMode):
    """Statistics of norms leave entries out that are zero everywhere because they were removed."""

    def __init__(self, masks: Mapping[int, list[Tensor]]) -> None:
        super().__init__()
        self.masks = masks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name in ("layer_norm", "rms_norm"):
            return self._normed(func, name, *args, **kwargs)
        if name == "group_norm":
            return self._grouped(*args, **kwargs)
        if name in ("mean", "var") and isinstance(args[0], Tensor):
            return self._statistic(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _mask(self, given: Tensor, dim: int) -> Tensor | None:
        for mask in self.masks.get(given.shape[dim], ()):
            if bool((given.movedim(dim, -1)[..., ~mask] == 0).all()):
                return mask
        return None

    def _statistic(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = [dims] if isinstance(dims, int) else dims
        mask = self._mask(args[0], dims[0]) if dims is not None and len(dims) == 1 else None
        if mask is None:
            return func(*args, **kwargs)
        return func(args[0].movedim(dims[0], -1)[..., mask].movedim(-1, dims[0]), *args[1:], **kwargs)

    def _normed(
        self, func: Any, name: str, given: Tensor, shape: Any, weight: Any = None, *rest: Any, **kwargs: Any
    ) -> Tensor:
        mask = self._mask(given, -1) if len(shape) == 1 else None
        weight = kwargs.pop("weight", weight)
        if mask is None:
            return func(given, shape, weight, *rest, **kwargs)
        bias = rest[0] if name == "layer_norm" and rest else kwargs.get("bias")
        eps = kwargs.get("eps", rest[-1] if rest and isinstance(rest[-1], float) else None)
        few = given[..., mask]
        centre = few.mean(-1, keepdim=True) if name == "layer_norm" else 0.0
        spread = (few - centre).pow(2).mean(-1, keepdim=True) + (torch.finfo(given.dtype).eps if eps is None else eps)
        normed = (few - centre) * spread.rsqrt()
        result = torch.zeros_like(given)
        result[..., mask] = normed
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    def _grouped(self, given: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        mask = self._mask(given, 1)
        mask = torch.ones(given.shape[1], dtype=torch.bool) if mask is None else mask
        result = torch.zeros_like(given)
        for group in torch.arange(given.shape[1]).chunk(groups):
            own = group[mask[group]]
            if len(own):
                flat = given[:, own].flatten(1)
                spread, centre = torch.var_mean(flat, 1, correction=0, keepdim=True)
                result[:, own] = ((flat - centre) * (spread + eps).rsqrt()).view_as(given[:, own])
        wide = (1, -1, *(1 for _ in given.shape[2:]))
        return result * weight.view(wide) + bias.view(wide) if weight is not None else result
