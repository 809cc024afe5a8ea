"""Part: which entries of a logical tensor a rank holds.

Files hold whole tensors, under the user's own names. Whatever a layout divides, its parts say where each piece lies in
the whole; so what was saved under one layout loads under any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

Ranges = tuple[tuple[int, int], ...]
"""Indices along a dim: ``(start, stop)`` of each stretch, in the order in which a piece holds them."""


@dataclass(frozen=True)
class Part:
    """Some of the entries of a tensor: along each dim the indices that are held.

    Attributes:
        shape: of the whole tensor.
        ranges: by dim.
    """

    shape: tuple[int, ...]
    ranges: tuple[Ranges, ...]

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.ranges)

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Part:
        """All of a tensor."""
        return cls(tuple(shape), tuple(((0, size),) for size in shape))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, and all in order."""
        return self == Part.whole(self.shape)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Of the piece."""
        return tuple(_length(ranges) for ranges in self.ranges)

    def rows(self, dim: int, start: int, stop: int) -> Part:
        """The part of this part that its piece's indices from ``start`` to ``stop`` along ``dim`` are."""
        chosen = tuple(_within(self.ranges[dim], start, stop))
        return Part(self.shape, (*self.ranges[:dim], chosen, *self.ranges[dim + 1 :]))

    def take(self, whole: Tensor) -> Tensor:
        """The piece of ``whole``: a view where one stretch is held along every dim, else a copy."""
        piece = whole
        for dim, ranges in enumerate(self.ranges):
            stretches = [piece.narrow(dim, start, stop - start) for start, stop in ranges]
            piece = stretches[0] if len(stretches) == 1 else _joined(stretches, piece, dim)
        return piece

    def put(self, whole: Tensor, piece: Tensor) -> None:
        """Write ``piece`` where it belongs in ``whole``."""
        for places in product(*(_placed(ranges) for ranges in self.ranges)):
            there, here = whole, piece
            for dim, (start, stop, first) in enumerate(places):
                there, here = there.narrow(dim, start, stop - start), here.narrow(dim, first, stop - start)
            there.copy_(here)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"shape": list(self.shape), "ranges": [[list(stretch) for stretch in dim] for dim in self.ranges]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Part:
        """What :meth:`to_json` gave."""
        ranges = tuple(tuple((start, stop) for start, stop in dim) for dim in values["ranges"])
        return cls(tuple(values["shape"]), ranges)

    @property
    def entries(self) -> int:
        """How many numbers the piece has."""
        return math.prod(self.local_shape)


def _joined(stretches: list[Tensor], like: Tensor, dim: int) -> Tensor:
    return torch.cat(stretches, dim) if stretches else like.narrow(dim, 0, 0)


def _length(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _placed(ranges: Ranges) -> list[tuple[int, int, int]]:
    """Each stretch with the place of its first entry in the piece."""
    placed, first = [], 0
    for start, stop in ranges:
        placed.append((start, stop, first))
        first += stop - start
    return placed


def _within(ranges: Ranges, start: int, stop: int) -> list[tuple[int, int]]:
    """The stretches that a piece holds from its place ``start`` to ``stop``, neighbours joined."""
    found: list[tuple[int, int]] = []
    for first, last, place in _placed(ranges):
        low, high = max(start - place, 0), min(stop - place, last - first)
        if low >= high:
            continue
        stretch = (first + low, first + high)
        found = [*found[:-1], (found[-1][0], stretch[1])] if found and found[-1][1] == stretch[0] else [*found, stretch]
    return found
