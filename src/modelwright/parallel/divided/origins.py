"""Views and what they were made of: each sees what is written into the other, also where entries had to travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.value import (
    Origin,
    Value,
    Writes,
    become,
    entire,
    forget,
    plain,
    redistribute,
    resolve,
    stamps,
)

Rule = Callable[..., Any]


def views(rule: Rule, operator: OpOverload, arguments: Any, named: Any) -> Value | list[Value]:
    """The result, or results, of an operator that shows entries of its first argument, which they remember."""
    base: Value = arguments[0]

    def again() -> Any:
        return rule(operator, *arguments, **named)

    def shown(whole: Tensor) -> Any:
        return operator(whole, *arguments[1:], **named)

    found = again()
    if isinstance(found, Value):
        return linked(found, base, again, shown)
    return [
        linked(one, base, lambda place=place: again()[place], lambda whole, place=place: shown(whole)[place])  # type: ignore[misc]
        for place, one in enumerate(found)
    ]


def linked(one: Value, base: Value, again: Callable[[], Value], shown: Callable[[Tensor], Tensor]) -> Value:
    """A view that remembers its base; see :class:`Origin`."""
    if one is base:
        return one
    one.origin = Origin(base, again, shown, base.writes.stamp)
    one.writes = _writes(one, base)
    return one


def current(one: Value) -> Value:
    """The value, made again if it is a view and its base was overwritten elsewhere."""
    origin = one.origin
    if origin is None:
        return one
    base = current(origin.base)
    if base.writes.stamp != origin.stamp:
        origin.stamp = base.writes.stamp
        if not _together(one, base):
            become(one, origin.again())
            one.writes = _writes(one, base)
    return one


def written(one: Value) -> None:
    """A value was overwritten: so is what it is a view of."""
    forget(one)
    one.writes.stamp = next(stamps)
    origin = one.origin
    if origin is None:
        return
    if not _together(one, origin.base):
        _overlay(origin.base, origin.shown, one)
    written(origin.base)
    origin.stamp = origin.base.writes.stamp


def _overlay(base: Value, shown: Callable[[Tensor], Tensor], one: Value) -> None:
    """Overwrite those entries of a value that a view shows; nothing but the view's entries travels."""
    resolve(base)
    covered = torch.zeros(base.shape, dtype=torch.bool, device=base.local.device)
    entries = base.local.new_empty(base.shape)
    shown(covered).fill_(True)
    shown(entries).copy_(entire(one))
    here, new = (redistribute(plain(whole, base.axes), base.division).local for whole in (covered, entries))
    base.local.copy_(torch.where(here, new, base.local))


def _writes(one: Value, base: Value) -> Writes:
    return base.writes if _together(one, base) else Writes()


def _together(one: Value, base: Value) -> bool:
    return bool(one.local.untyped_storage()._cdata == base.local.untyped_storage()._cdata)
