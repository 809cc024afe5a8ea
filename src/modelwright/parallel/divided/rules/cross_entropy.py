"""Softmax and losses of classes that are divided over ranks: the logits are never gathered.

Maxima, sums of exponentials and the logits of targets are reduced (Shoeybi et al. 2019, "Megatron-LM",
arXiv:1909.08053).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.parallel.divided.division import Division, axes_of, meet, strip, whole_dim
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.indexing import own_places, run_axis
from modelwright.parallel.divided.rules.reductions import axes_along, evenly, reduced_dims, remaining
from modelwright.parallel.divided.value import NONE, Value, entire, redistribute, resolve

aten = torch.ops.aten

_NONE, _MEAN = 0, 1


# --- softmax


def _reduced(value: Value, local: Tensor, places: Sequence[int], op: Any) -> Tensor:
    for axis in sorted(axes_along(value, places)):
        local = value.axes.all_reduce(local, axis, op)
    return local


def _log_sum(value: Value, places: list[int], local: Tensor) -> Tensor:
    """Log-sum-exp over dims, which stay with one entry."""
    most = _reduced(value, local.amax(places, keepdim=True), places, "max")
    most = most.masked_fill(most.isinf(), 0)
    return _reduced(value, (local - most).exp().sum(places, keepdim=True), places, "sum").log() + most


@rule(aten._softmax.default, aten._log_softmax.default, aten._safe_softmax.default)
def softmax(operator: OpOverload, value: Value, place: int, *args: Any, **kwargs: Any) -> Value:
    """Shares along a dim, or their logarithms."""
    resolve(value)
    value = evenly(value, [place % len(value.shape)]) if value.shape else value
    if not value.shape or not axes_of(value.division.dims[place]):
        return value.like(operator(value.local, place, *args, **kwargs))
    local = value.local.float() if True in args else value.local
    local = local if kwargs.get("dtype") is None else local.to(kwargs["dtype"])
    logs = local - _log_sum(value, [place % len(value.shape)], local)
    if operator is aten._log_softmax.default:
        return value.like(logs)
    shares = logs.exp()
    return value.like(shares.nan_to_num(0.0) if operator is aten._safe_softmax.default else shares)


@rule(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default)
def softmax_backward(operator: OpOverload, gradient: Value, output: Value, place: int, dtype: torch.dtype) -> Value:
    """Of softmax along a dim, or of its logarithm."""
    gradient = redistribute(gradient, output.division)
    if not output.shape or not axes_of(output.division.dims[place]):
        return output.like(operator(gradient.local, output.local, place, dtype))
    given, shares = gradient.local, output.local
    if operator is aten._log_softmax_backward_data.default:
        total = _reduced(output, given.sum(place, keepdim=True), [place], "sum")
        return output.like((given - shares.exp() * total).to(dtype))
    total = _reduced(output, (given * shares).sum(place, keepdim=True), [place], "sum")
    return output.like((shares * (given - total)).to(dtype))


@rule(aten.logsumexp.default)
def log_sum_exp(operator: OpOverload, value: Value, places: Sequence[int], keep: bool = False) -> Value:
    """The logarithm of sums of exponentials over dims."""
    resolve(value)
    listed = reduced_dims(value, places)
    value = evenly(value, listed)
    division = remaining(value.division, listed, keep)
    if not axes_along(value, listed):
        return value.like(operator(value.local, places, keep), division)
    found = _log_sum(value, listed, value.local)
    return value.like(found if keep else found.squeeze(tuple(listed)), division)


# --- the negative logarithm of a target's share


def _aligned(logs: Value, target: Value) -> tuple[Value, Value, str | None]:
    """Logs and targets divided alike, and the axis over which the classes stay divided."""
    place = _class_place(logs)
    classes = logs.division.dims[place]
    along = run_axis(classes)
    classes = classes if along else whole_dim(logs.shape[place])
    rows = list(logs.division.dims[:place] + logs.division.dims[place + 1 :])
    for other, dim in enumerate(target.division.dims):
        used = axes_of(classes) | {axis for each, entry in enumerate(rows) if each != other for axis in axes_of(entry)}
        rows[other] = meet(strip(rows[other], axes_of(classes)), strip(dim, frozenset(used)))
    logs = redistribute(logs, Division((*rows[:place], classes, *rows[place:])))
    return logs, redistribute(target, Division(tuple(rows))), along


def _class_place(logs: Value) -> int:
    return 0 if len(logs.shape) == 1 else 1


def _wanted(logs: Value, target: Value, along: str | None, weight: Value | None, ignored: int) -> tuple[Tensor, Tensor]:
    """Where the target's class stands in this rank's piece, and the weight of the target, zero where it has not it."""
    valid = target.local != ignored
    classes = target.local.masked_fill(~valid, 0)
    scale = valid.to(logs.local.dtype)
    if weight is not None:
        scale = scale * entire(weight)[classes]
    if along is None:
        return classes, scale
    places, inside = own_places(classes, logs.shape[_class_place(logs)], along, logs.axes)
    return places, scale * inside


@rule(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def negative_logs(
    operator: OpOverload, logs: Value, target: Value, weight: Value | None, reduction: int, ignored: int
) -> tuple[Value, Any]:
    """The losses, or their sum or mean; what ranks have of it is left pending."""
    logs, target, along = _aligned(resolve(logs), resolve(target))
    place, classes = _class_place(logs), frozenset({along} if along else ())
    places, scale = _wanted(logs, target, along, weight, ignored)
    picked = logs.local.gather(place, places.unsqueeze(place)).squeeze(place)
    losses = torch.where(scale != 0, -picked * scale, 0)  # a share may be zero where nobody asks for it
    if reduction == _NONE:
        return logs.like(losses, target.division, classes), logs.local.new_zeros(())
    rows = target.division.axes
    count = _counted(logs, scale, rows | classes)
    local = losses.sum() / count if reduction == _MEAN else losses.sum()
    return logs.like(local, Division(()), rows | classes), count


def _counted(logs: Value, scale: Tensor, axes: frozenset[str]) -> Tensor:
    count = scale.sum()
    for axis in sorted(axes):
        count = logs.axes.all_reduce(count, axis)
    return count


@rule(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def negative_logs_backward(
    operator: OpOverload,
    gradient: Value,
    logs: Value,
    target: Value,
    weight: Value | None,
    reduction: int,
    ignored: int,
    count: Value,
) -> Value:
    """Gradients by the logarithms: those of the classes and rows that this rank has."""
    logs, target, along = _aligned(resolve(logs), resolve(target))
    place = _class_place(logs)
    places, scale = _wanted(logs, target, along, weight, ignored)
    given = redistribute(gradient, target.division if reduction == _NONE else gradient.division, NONE).local
    if reduction == _MEAN:
        given = given / entire(count)
    rows = torch.where(scale != 0, -scale * given, 0)
    return logs.like(torch.zeros_like(logs.local).scatter_(place, places.unsqueeze(place), rows.unsqueeze(place)))
