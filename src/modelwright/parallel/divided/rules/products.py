"""Products of matrices: pieces are multiplied, and sums over a divided dim stay pending."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.parallel.divided.division import Dim, Division, align, axes_of, even, meet, strip, whole_dim
from modelwright.parallel.divided.registry import rule
from modelwright.parallel.divided.rules.elementwise import fitting
from modelwright.parallel.divided.value import Value, gathered_once, redistribute, resolve

aten = torch.ops.aten


@dataclass
class _Plan:
    """How both sides of ``[batch, rows, inner] x [batch, inner, columns]`` are to be divided."""

    batch: tuple[Dim, ...]
    rows: Dim
    inner: Dim
    columns: Dim

    def dims(self) -> dict[str, Dim]:
        named = {"rows": self.rows, "inner": self.inner, "columns": self.columns}
        return named | {f"batch{place}": dim for place, dim in enumerate(self.batch)}

    def without(self, name: str, axis: str) -> None:
        if name.startswith("batch"):
            place = int(name.removeprefix("batch"))
            dims = [*self.batch]
            dims[place] = strip(dims[place], frozenset({axis}))
            self.batch = tuple(dims)
        else:
            setattr(self, name, strip(getattr(self, name), frozenset({axis})))


def _planned(left: Value, right: Value) -> _Plan:
    *left_batch, rows, inner = left.division.dims
    *right_batch, other, columns = right.division.dims
    bigger = left.nbytes >= right.nbytes
    batch = tuple(_met(a, b, bigger) for a, b in zip(left_batch, right_batch, strict=True))
    plan = _Plan(batch, rows, even(_met(inner, other, bigger)), columns)
    for axis in sorted(left.division.axes | right.division.axes):
        _settle(plan, axis, left, right)
    return plan


def _met(first: Dim, second: Dim, first_leads: bool) -> Dim:
    """One dim of both sides: where one is whole it follows the other for nothing."""
    lead, follow = (first, second) if first_leads else (second, first)
    if align(lead, follow) is None or not axes_of(lead):
        return follow if not axes_of(lead) else lead
    return meet(lead, follow)


def _settle(plan: _Plan, axis: str, left: Value, right: Value) -> None:
    """Let an axis divide one dim only: that which has the least travel, and never a weight if it can be helped."""
    names = [name for name, dim in plan.dims().items() if axis in axes_of(dim)]
    if len(names) < 2:
        return
    best = min(names, key=lambda name: (_cost(name, axis, left, right), names.index(name)))
    for name in names:
        if name != best:
            plan.without(name, axis)


def _cost(name: str, axis: str, left: Value, right: Value) -> tuple[int, float]:
    """Weights that would be gathered, and bytes that would travel, if the axis divided one dim only."""
    weights, traffic = 0, 0.0
    for one, dims in ((left, ("rows", "inner")), (right, ("inner", "columns"))):
        place = _place(one, axis, dims)
        if place is not None and place != name:
            weights += one.parameter
            traffic += one.nbytes
    if name == "inner":
        traffic += 2 * left.local.element_size() * _result_numel(left, right)
    return weights, traffic


def _place(one: Value, axis: str, last: tuple[str, str]) -> str | None:
    names = (*(f"batch{place}" for place in range(len(one.shape) - 2)), *last)
    return next((name for name, dim in zip(names, one.division.dims, strict=True) if axis in axes_of(dim)), None)


def _result_numel(left: Value, right: Value) -> int:
    return torch.Size((*left.shape[:-1], right.shape[-1])).numel()


def prepared(left: Value, right: Value) -> tuple[Value, Value, Division, frozenset[str]]:
    """Both sides ready to be multiplied, and the division of the result and what is then pending in it."""
    resolve(left)
    resolve(right)
    plan = _planned(left, right)
    left = gathered_once(left, Division((*plan.batch, plan.rows, plan.inner)))
    right = gathered_once(right, Division((*plan.batch, plan.inner, plan.columns)))
    return left, right, Division((*plan.batch, plan.rows, plan.columns)), axes_of(plan.inner)


@rule(aten.mm.default, aten.bmm.default)
def multiplied(operator: OpOverload, left: Value, right: Value, *args: Any) -> Value:
    """``[..., rows, inner] x [..., inner, columns]``."""
    left, right, division, pending = prepared(left, right)
    return left.like(operator(left.local, right.local, *args), division, pending)


@rule(aten.addmm.default, aten.baddbmm.default)
def multiplied_and_added(
    operator: OpOverload, other: Value, left: Value, right: Value, *, beta: float = 1, alpha: float = 1
) -> Value:
    """``beta other + alpha left right``; of a sum that is pending one rank's term holds ``other``."""
    left, right, division, pending = prepared(left, right)
    other = redistribute(resolve(other), fitting(other.shape, division))
    first = left.axes.first(pending)
    local = operator(other.local, left.local, right.local, beta=beta if first else 0, alpha=alpha)
    return left.like(local, division, pending)


@rule(aten.mv.default)
def applied(operator: OpOverload, matrix: Value, vector: Value) -> Value:
    """A matrix times a vector."""
    column = vector.view(vector.local.unsqueeze(-1), Division((*vector.division.dims, whole_dim(1))))
    matrix, column, division, pending = prepared(matrix, column)
    return matrix.like(operator(matrix.local, column.local.squeeze(-1)), Division(division.dims[:1]), pending)


@rule(aten.dot.default)
def dotted(operator: OpOverload, first: Value, second: Value) -> Value:
    """The inner product of two vectors."""
    dim = even(_met(first.division.dims[0], second.division.dims[0], True))
    first = redistribute(resolve(first), Division((dim,)))
    second = redistribute(resolve(second), Division((dim,)))
    return first.like(operator(first.local, second.local), Division(()), axes_of(dim))
