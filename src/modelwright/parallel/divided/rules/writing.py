"""Operators that overwrite a tensor, where nothing of it is read."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.views import expanded
from modelwright.parallel.divided.value import Value, store

aten = torch.ops.aten


@rule(aten.zero_.default)
def zeroed(operator: OpOverload, value: Value) -> Value:
    """Zeros, whatever is pending."""
    operator(value.local)
    return value


@rule(aten.fill_.Scalar, aten.fill_.Tensor)
def filled(operator: OpOverload, value: Value, number: Any) -> Value:
    """One number everywhere."""
    entry = number.local if isinstance(number, Value) else number
    source = value.like(operator(torch.empty_like(value.local), entry), pending=frozenset())
    return store(value, source)


@rule(aten.copy_.default)
def copied(operator: OpOverload, value: Value, source: Value, *_: Any) -> Value:
    """The entries of another tensor."""
    return store(value, expanded(operator, source, value.shape))


@rule(aten.copy.default)
def copied_out(operator: OpOverload, value: Value, source: Value, *_: Any) -> Value:
    """The same, of which a new tensor is made."""
    found: Value = expanded(operator, source, value.shape)
    return found.like(found.local.to(value.local.dtype, copy=True))
