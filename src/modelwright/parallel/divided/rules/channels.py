"""Norms of channels: each rank those of its own channels, or of its own groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.division import Dim, Division, Factor, axes_of, local_length, whole_dim
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.convolutions import channels_first, group_axis
from modelwright.parallel.divided.value import Value, gathered, redistribute, resolve, store

aten = torch.ops.aten


def _own(one: Value | None, dim: Dim) -> Tensor | None:
    return None if one is None else redistribute(resolve(one), Division((dim,))).local


def _grouped(value: Value, groups: int) -> tuple[Value, Dim, int]:
    """The value in whole groups, the division of the groups, and how many are here."""
    value = channels_first(value)
    axis = group_axis(value.division.dims[1], groups, value.axes.sizes)
    if axis is None:
        return gathered(value, [1]), whole_dim(groups), groups
    return value, ((Factor(groups, axis),),), groups // value.axes.sizes[axis]


@rule(aten.native_group_norm.default)
def group_norm(
    operator: OpOverload,
    value: Value,
    weight: Value | None,
    bias: Value | None,
    samples: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> Any:
    """Channels in groups."""
    value, rows, own = _grouped(value, groups)
    batch, dim = value.division.dims[:2]
    counts = (local_length(batch, value.axes.sizes), local_length(dim, value.axes.sizes), pixels, own)
    out, *statistics = operator(value.local.contiguous(), _own(weight, dim), _own(bias, dim), *counts, eps)
    return (value.like(out), *(value.like(each, Division((batch, rows))) for each in statistics))


@rule(aten.native_group_norm_backward.default)
def group_norm_backward(
    operator: OpOverload,
    gradient: Value,
    value: Value,
    mean: Value,
    deviation: Value,
    weight: Value | None,
    samples: int,
    channels: int,
    pixels: int,
    groups: int,
    mask: Sequence[bool],
) -> Any:
    """Of a group norm."""
    value, rows, own = _grouped(value, groups)
    batch, dim = value.division.dims[:2]
    counts = (local_length(batch, value.axes.sizes), local_length(dim, value.axes.sizes), pixels, own)
    made = redistribute(channels_first(gradient), value.division)
    statistics = [redistribute(each, Division((batch, rows))).local.contiguous() for each in (mean, deviation)]
    found = operator(made.local.contiguous(), value.local.contiguous(), *statistics, _own(weight, dim), *counts, mask)
    return _gradients(value, found, dim, axes_of(batch))


def _gradients(value: Value, found: Sequence[Tensor | None], dim: Dim, pending: frozenset[str]) -> Any:
    own = None if found[0] is None else value.like(found[0])
    return (own, *(None if each is None else value.like(each, Division((dim,)), pending) for each in found[1:]))


def _whole_samples(value: Value) -> tuple[Value, Dim]:
    """The value with all that a channel's statistics are over, and the division of its channels."""
    value = gathered(channels_first(value), [0])
    return value, value.division.dims[1]


@rule(aten.native_batch_norm.default)
def batch_norm(
    operator: OpOverload,
    value: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Each channel by itself, over all samples."""
    value, dim = _whole_samples(value)
    running = [None if each is None else _copied(each, dim) for each in (running_mean, running_variance)]
    out, *saved = operator(value.local, _own(weight, dim), _own(bias, dim), *running, training, momentum, eps)
    for one, local in zip((running_mean, running_variance), running, strict=True):
        if training and one is not None and local is not None:
            store(one, value.like(local, Division((dim,))))
    return (value.like(out), *(value.like(each, _saved(each, dim)) for each in saved))


def _copied(one: Value, dim: Dim) -> Tensor:
    return redistribute(resolve(one), Division((dim,))).local.clone()


def _saved(local: Tensor, dim: Dim) -> Division:
    """Statistics that are kept for the backward pass; there are none where the running ones are used."""
    return Division((dim if local.numel() else whole_dim(0),))


def _kept(one: Value | None, dim: Dim) -> Tensor | None:
    return _own(one, dim) if one is not None and one.local.numel() else None if one is None else one.local


@rule(aten.native_batch_norm_backward.default)
def batch_norm_backward(
    operator: OpOverload,
    gradient: Value,
    value: Value,
    weight: Value | None,
    running_mean: Value | None,
    running_variance: Value | None,
    mean: Value | None,
    deviation: Value | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> Any:
    """Of a batch norm."""
    value, dim = _whole_samples(value)
    made = redistribute(channels_first(gradient), value.division)
    running = [_own(each, dim) for each in (running_mean, running_variance)]
    saved = [_kept(each, dim) for each in (mean, deviation)]
    found = operator(made.local, value.local, _own(weight, dim), *running, *saved, training, eps, mask)
    return _gradients(value, found, dim, frozenset())
