"""The same call with other sizes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from modelwright.export.call import Call
from modelwright.export.signature import Signature


def resized(call: Call, signature: Signature) -> Iterator[tuple[str, int, Call]]:
    """For each size that may vary: its name, a smaller and a larger one, and the call so; one size at a time."""
    slots = {slot.name: slot for slot in signature.inputs}
    for name in signature.varying():
        key, slot = next((key, slots[key]) for key in call.tensors if name in slots[key].shape)
        have = call.tensors[key].size(slot.shape.index(name))
        for size in _sizes(name, have, signature.largest.get(name)):
            tensors = {key: _with_size(each, slots[key].shape, name, size) for key, each in call.tensors.items()}
            yield name, size, call.of(tensors)


def _sizes(name: str, have: int, largest: int | None) -> list[int]:
    tried = (1 if name == "batch" else max(2, have // 2), have + 3)
    return [size for size in tried if largest is None or size <= largest]


def refused_sizes(model: nn.Module, call: Call, signature: Signature) -> set[str]:
    """Names of sizes of which the model itself takes no other than the example's, as far as was tried."""
    taken = dict.fromkeys(signature.varying(), False)
    for name, _, other in resized(call, signature):
        try:
            other.answer(model)
        except Exception:  # whatever the model raises for a size it is not made for
            continue
        taken[name] = True
    return {name for name, once in taken.items() if not once}


def _with_size(tensor: Tensor, shape: tuple[int | str, ...], name: str, size: int) -> Tensor:
    """Cut short, or repeated from its begin."""
    for dim in (dim for dim, each in enumerate(shape) if each == name):
        tensor = tensor.index_select(dim, torch.arange(size) % tensor.size(dim))
    return tensor
