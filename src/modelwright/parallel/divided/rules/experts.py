"""Experts of which each rank has some hidden units, or works on some positions; routing and travel are its own."""

from __future__ import annotations

import math
from functools import reduce

from torch import Tensor

from modelwright.models.balance import Sharing
from modelwright.models.experts import Experts, Weights, mixed
from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.divided import find_axes, unwrap
from modelwright.parallel.divided.division import Dim, Division, axes_of, strip, whole, whole_dim
from modelwright.parallel.divided.local import local_of, whole_of
from modelwright.parallel.divided.registry import FUNCTIONS


def mixed_in_pieces(x: Tensor, router: Tensor, up: Tensor, down: Tensor, gate: Tensor | None, layer: Experts) -> Tensor:
    """See :func:`modelwright.models.experts.mixed`.

    Ranks that have some of each expert's hidden units work on the same tokens: what they give are terms of a sum. All
    others work on the positions that they have.
    """
    axes = find_axes((x, router, up, down, gate))
    if axes is None:
        return layer.mix(x, Weights(router, up, down, gate))
    units = _units(up, down, gate, axes)
    terms = axes_of(units)
    lies = whole(tuple(x.shape)).with_dim(1, strip(_division(x, axes).dims[1], terms))

    def stack(weight: Tensor, place: int) -> Tensor:
        return local_of(weight, whole(tuple(weight.shape)).with_dim(place, units), axes, lies.axes)

    weights = Weights(
        local_of(router, whole(tuple(router.shape)), axes, lies.axes | terms),
        stack(up, 2),
        stack(down, 1),
        None if gate is None else stack(gate, 2),
    )
    found = layer.mix(local_of(x, lies, axes, terms), weights, _sharing(axes, lies.axes, terms))
    return whole_of(found, lies, axes, terms)


FUNCTIONS[mixed] = mixed_in_pieces


def _units(up: Tensor, down: Tensor, gate: Tensor | None, axes: Axes) -> Dim:
    """How hidden units are divided; whole where not all weights have the same of them, as pins may have it."""
    found = {_division(weight, axes).dims[2] for weight in (up, gate) if weight is not None}
    found.add(_division(down, axes).dims[1])
    return found.pop() if len(found) == 1 else whole_dim(up.shape[2])


def _division(tensor: Tensor, axes: Axes) -> Division:
    found: Division = unwrap(tensor.detach(), axes).division
    return found


def _sharing(axes: Axes, along: frozenset[str], terms: frozenset[str]) -> Sharing:
    def total(tensor: Tensor) -> Tensor:
        return reduce(axes.all_reduce, sorted(along), tensor)

    return Sharing(total, math.prod(axes.sizes[axis] for axis in along), axes.first(terms))
