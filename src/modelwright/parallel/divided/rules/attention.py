"""Attention of divided tensors as one operator: heads stay where they are, time is attended to over its axis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.group import Group, Traffic
from modelwright.parallel.context.attention import Way, attention, attention_from
from modelwright.parallel.divided.axes import Axes, DryAxes
from modelwright.parallel.divided.divided import find_axes, unwrap
from modelwright.parallel.divided.division import (
    Dim,
    Division,
    Factor,
    axes_of,
    indices,
    length,
    meet,
    strip,
    whole_dim,
)
from modelwright.parallel.divided.local import local_of, whole_of
from modelwright.parallel.divided.registry import FUNCTIONS
from modelwright.parallel.divided.rules.elementwise import fitting
from modelwright.parallel.divided.value import Value
from modelwright.parallel.dry import DryGroup


@dataclass(frozen=True)
class _Settings:
    way: Way = "ring"
    balanced: bool = False


_settings = [_Settings()]  # of all threads: a backward pass has its own


@contextmanager
def attending(way: Way = "ring", *, balanced: bool = False) -> Iterator[None]:
    """How attention over a divided time dim travels inside; see :mod:`modelwright.parallel.context.attention`."""
    _settings.append(_Settings(way, balanced))
    try:
        yield
    finally:
        _settings.pop()


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, of divided tensors too."""
    axes = find_axes((query, key, value, attn_mask))
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    if axes is None or not query.dim() == key.dim() == value.dim() == 4 or (is_causal and attn_mask is not None):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, **options)  # type: ignore[arg-type]
    one = [unwrap(tensor.detach(), axes) for tensor in (query, key, value)]
    plan = _planned(one[0], one[1], one[2], axes)
    scale = query.size(-1) ** -0.5 if scale is None else scale
    return plan.attended(query, key, value, attn_mask, dropout_p, is_causal, scale)


FUNCTIONS[functional.scaled_dot_product_attention] = scaled_dot_product_attention


@dataclass(frozen=True)
class _Plan:
    """How query, key and value are to lie, and over which axis time is attended to, if any."""

    axes: Axes
    query: Division
    key: Division
    value: Division
    time: str | None
    shared: tuple[int, ...] | None

    def attended(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float
    ) -> Tensor:
        axes = self.axes
        outputs = self.query.with_dim(3, self.value.dims[3])
        pending = self.query.axes - self.key.axes
        local_query = local_of(query, self.query, axes)
        local_key, local_value = (
            self._chosen(local_of(tensor, division, axes, pending))
            for tensor, division in ((key, self.key), (value, self.value))
        )
        seen = None if mask is None else self._mask(mask)
        call = {"causal": causal, "mask": seen, "scale": scale, "dropout": dropout}
        found = self._computed(_cast(local_query), _cast(local_key), _cast(local_value), call)
        return whole_of(found, outputs, axes)

    def _computed(self, query: Tensor, key: Tensor, value: Tensor, call: dict[str, Any]) -> Tensor:
        time = self.query.dims[2]
        if not axes_of(time):
            return functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=call["mask"],
                dropout_p=call["dropout"],
                is_causal=call["causal"],
                scale=call["scale"],
                enable_gqa=query.size(1) != key.size(1),
            )
        seed = self._seed(query) if call["dropout"] else 0
        (axis,) = axes_of(time)
        if isinstance(self.axes, DryAxes):
            return _dry(query, key, value, self.axes, self.time, call)
        if self.time is None:
            begin = self.axes.ranks[axis] * query.size(2)
            return attention_from(begin, query, key, value, seed=seed, **call)
        settings, group = _settings[-1], self.axes.groups[self.time]
        group = _counted(group, self.axes, self.time)
        return attention(query, key, value, group, way=settings.way, balanced=settings.balanced, seed=seed, **call)

    def _seed(self, query: Tensor) -> int:
        """Drawn on all ranks alike; other heads and samples drop other shares."""
        drawn = int(torch.randint(2**31, ()))
        places = [self.axes.ranks[axis] for axis in sorted(self.query.axes - axes_of(self.query.dims[2]))]
        return hash((drawn, *places))

    def _chosen(self, x: Tensor) -> Tensor:
        """The heads of key or value that this rank's heads of the query share."""
        return x if self.shared is None else x.index_select(1, torch.tensor(self.shared, device=x.device))

    def _mask(self, mask: Tensor) -> Tensor:
        """Rows of this rank's queries, columns of all keys."""
        shape, axes = tuple(mask.shape), self.axes
        scores = self.query.with_dim(3, whole_dim(self.key.shape[2]))
        division = fitting(shape, scores)
        return local_of(mask, division, axes, scores.axes - division.axes)


def _planned(query: Value, key: Value, value: Value, axes: Axes) -> _Plan:
    batch = meet(meet(query.division.dims[0], key.division.dims[0]), value.division.dims[0])
    taken = axes_of(batch)
    heads = strip(query.division.dims[1], taken)
    taken |= axes_of(heads)
    time, along = _time(query, key, value, taken)
    keys = strip(key.division.dims[1], taken - axes_of(heads) | axes_of(time))
    shared = _shared(heads, keys, key.shape[1], axes)
    if shared is not None:
        keys = whole_dim(key.shape[1])
        shared = _shared(heads, keys, key.shape[1], axes)
    source = _run(key.shape[2], along) if along else whole_dim(key.shape[2])
    divisions = (
        Division((batch, heads, time, whole_dim(query.shape[3]))),
        Division((batch, keys, source, whole_dim(key.shape[3]))),
        Division((batch, keys, source, whole_dim(value.shape[3]))),
    )
    return _Plan(axes, *divisions, time=along, shared=shared)


def _time(query: Value, key: Value, value: Value, taken: frozenset[str]) -> tuple[Dim, str | None]:
    """How the time of the query stays divided, and the axis over which that of the key is divided in the same way."""
    dim = strip(query.division.dims[2], taken)
    if not axes_of(dim):
        return whole_dim(query.shape[2]), None
    axis = min(axes_of(dim))
    if dim != _run(query.shape[2], axis):
        return whole_dim(query.shape[2]), None
    alike = all(one.division.dims[2] == _run(one.shape[2], axis) for one in (key, value))
    return dim, axis if alike else None


def _run(size: int, axis: str) -> Dim:
    return ((Factor(size, axis),),)


def _shared(heads: Dim, keys: Dim, count: int, axes: Axes) -> tuple[int, ...] | None:
    """By local head of the query the place of its key among the local ones; ``None`` where these are evenly shared."""
    mine, theirs = (indices(dim, axes.ranks, axes.sizes) for dim in (heads, keys))
    groups = length(heads) // count
    wanted = mine // groups
    if len(mine) % len(theirs) == 0 and np.array_equal(theirs.repeat(len(mine) // len(theirs)), wanted):
        return None
    places = {int(index): place for place, index in enumerate(theirs)}
    return tuple(places.get(int(index), 0) for index in wanted)


def _cast(x: Tensor) -> Tensor:
    """As autocast would have it for attention."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


class _Meter(Traffic):
    """Counts what is sent over an axis with the axis too."""

    def __init__(self, axes: Axes, axis: str, whole: Traffic) -> None:
        self._axes, self._axis, self._whole = axes, axis, whole

    @property
    def sent(self) -> int:
        return self._whole.sent

    @sent.setter
    def sent(self, value: int) -> None:
        self._axes.sent[self._axis] += value - self._whole.sent
        self._whole.sent = value


def _counted(group: Group, axes: Axes, axis: str) -> Group:
    return replace(group, traffic=_Meter(axes, axis, group.traffic))


def _dry(query: Tensor, key: Tensor, value: Tensor, axes: DryAxes, axis: str | None, call: dict[str, Any]) -> Tensor:
    """Shapes, without other ranks; what each of them sends, there and back, is noted."""
    if axis is not None:
        for group in axes.groups[axis].each():
            _travelled(query, key, value, group, call)
    grouped = query.size(1) != key.size(1)
    return functional.scaled_dot_product_attention(query, key, value, enable_gqa=grouped)


def _travelled(query: Tensor, key: Tensor, value: Tensor, group: DryGroup, call: dict[str, Any]) -> None:
    settings = _settings[-1]
    query, key, value = pieces = [x.detach().requires_grad_(x.requires_grad) for x in (query, key, value)]
    found = attention(query, key, value, group, way=settings.way, balanced=settings.balanced, **call)
    if wanted := [piece for piece in pieces if piece.requires_grad]:
        torch.autograd.grad(found, wanted, torch.empty_like(found))
