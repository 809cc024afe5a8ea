"""Operators that make tensors, and those that draw random numbers: drawn whole, so that every rank draws the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.divided import whole_strides
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.value import NONE, Value, plain, redistribute, resolve

aten = torch.ops.aten


@rule(
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default,
)  # fmt: skip
def alike(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Value:
    """A tensor filled with one number, divided as another."""
    return value.like(operator(value.local, *args, **kwargs), pending=NONE)


@rule(
    aten.new_zeros.default, aten.new_ones.default, aten.new_empty.default, aten.new_full.default,
    aten.new_empty_strided.default,
)  # fmt: skip
def fresh(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Tensor:
    """A tensor of any shape: every rank has all of it."""
    result: Tensor = operator(value.local, *args, **kwargs)
    return result


def drawn(value: Value, function: Any) -> Value:
    """What ``function`` draws for an empty tensor like the whole of a value, divided as the value."""
    local = value.local
    like = torch.empty_strided(value.shape, whole_strides(value), dtype=local.dtype, device=local.device)
    return redistribute(plain(function(like), value.axes), value.division)


@rule(aten.rand_like.default, aten.randn_like.default, aten.randint_like.default, aten.randint_like.low_dtype)
def drawn_alike(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Random numbers, divided as another tensor."""
    return drawn(value, lambda like: operator(like, *args, **kwargs))


@rule(
    aten.bernoulli_.float, aten.uniform_.default, aten.normal_.default, aten.random_.default, aten.exponential_.default,
    aten.random_.to, aten.log_normal_.default,
)  # fmt: skip
def drawn_into(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Random numbers that overwrite a tensor."""
    found = drawn(value, lambda like: operator(like, *args, **kwargs))
    value.local.copy_(redistribute(found, value.division, value.pending).local)
    return value


@rule(aten.bernoulli.default)
def tossed(operator: OpOverload, chances: Value, **kwargs: Any) -> Value:
    """Ones with given chances."""
    resolve(chances)
    whole = redistribute(chances, plain(torch.empty(chances.shape, device="meta"), chances.axes).division)
    return redistribute(whole.like(operator(whole.local, **kwargs)), chances.division)


@rule(aten.native_dropout.default)
def dropped(operator: OpOverload, value: Value, chance: float, training: bool | None) -> Any:
    """Dropout: the places that one process would drop."""
    resolve(value)
    if not training or chance in (0, 1):
        return tuple(value.like(entry) for entry in operator(value.local, chance, training))
    mask = drawn(value, lambda like: operator(torch.ones_like(like), chance, training)[1])
    return value.like(value.local * mask.local / (1 - chance)), mask
