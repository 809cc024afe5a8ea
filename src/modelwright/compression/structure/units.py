"""Units: the smallest things that can be removed from a model, and where each of them lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = (
    "channel",
    "channel-group",
    "channel-of-group",
    "expert",
    "head",
    "head-of-group",
    "head-width",
    "kernel",
    "kv-group",
    "row",
    "unit",
    "width",
)
"""All kinds of units, see :attr:`UnitClass.kind`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where the units of a class lie in one dim of a parameter or buffer.

    Attributes:
        tensor: name of the parameter or buffer; of a tied one, the first.
        dim: which of its dims.
        places: ``[size, count]``: the places in that dim that hold each unit, ascending.
        buffer: whether it is a buffer.
        makes: the tensor makes the unit: rows of a weight, their bias, the scale of a norm, entries of an embedding.
        reads: the tensor reads the unit: a matrix product or a convolution sums over it.
    """

    tensor: str
    dim: int
    places: NDArray[np.int64]
    buffer: bool
    makes: bool
    reads: bool

    def by_unit(self, tensor: Tensor) -> Tensor:
        """What a tensor of that shape - the weight, its gradient, anything counted beside it - holds of each unit.

        Returns:
            ``[size, numbers of a unit]``.
        """
        size, count = self.places.shape
        flat = torch.from_numpy(self.places.reshape(-1)).to(tensor.device)
        taken = tensor.index_select(self.dim, flat).movedim(self.dim, 0)
        return taken.reshape(size, count * (taken.numel() // max(1, size * count)))


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitClass:
    """Units that can be removed one by one, each from all the places where it lies.

    Attributes:
        number: by which it is named.
        kind: ``channel`` of a convolution, or ``channel-group`` and ``channel-of-group`` where norms or convolutions
            see groups of them; ``head`` of attention, or ``kv-group`` (heads that share keys and values) and
            ``head-of-group``; ``head-width`` (an entry of all heads); ``width`` (an entry of the residual stream,
            over which norms go); ``expert``; ``unit`` of a feed-forward and everything else. Of those that cannot be
            removed also ``kernel`` and ``row`` of a table.
        size: how many units there are.
        places: where they lie in parameters and buffers.
        cost: parameters that go with one unit, all else being there.
        together: number of the first of all classes that must keep equally many, since one number of the code is the
            size of all of them; its own number where it is free.
    """

    number: int
    kind: str
    size: int
    places: tuple[Place, ...]
    cost: int
    together: int

    @property
    def name(self) -> str:
        """Of the first tensor in which it lies, with the kind."""
        return f"{self.kind}s of {self.places[0].tensor}"

    @property
    def parameters(self) -> tuple[Place, ...]:
        """The places that are no buffers."""
        return tuple(each for each in self.places if not each.buffer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """Dims from which nothing may be removed.

    Attributes:
        number: of the class.
        kind: see :class:`UnitClass`.
        size: how many entries.
        tensors: in which it lies.
        reason: why.
    """

    number: int
    kind: str
    size: int
    tensors: tuple[str, ...]
    reason: str
