"""Dry: groups without processes, for which the code that communicates runs on tensors of the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modelwright.base.group import Group

Bytes = NDArray[np.float64]


class _Done:
    def wait(self) -> None:
        return None


@dataclass(frozen=True)
class DryGroup(Group):
    """Notes what its ranks would send, by the formulas of :mod:`modelwright.parallel.traffic`.

    Attributes:
        alike: whether all ranks do what this one does; else what is noted is its own.
        notes: by kind, as ``all-gather``, the bytes that each rank sends; ``[ranks]`` each.
    """

    alike: bool = True
    notes: dict[str, Bytes] = field(default_factory=dict, compare=False)

    def each(self) -> list[DryGroup]:
        """The group as each of its ranks has it, where they do not do the same; their notes are these."""
        return [replace(self, rank=rank, alike=False) for rank in range(self.size)]

    def note(self, kind: str, size: float) -> None:
        """A collective, in which a rank sends so many bytes."""
        sums = self.notes.setdefault(kind, np.zeros(self.size))
        sums[slice(None) if self.alike else self.rank] += size

    def all_reduce(self, tensor: Tensor, op: Any = "sum", asynchronous: bool = False) -> Any:
        """``tensor`` as it is; single numbers, such as losses, are not noted."""
        if tensor.numel() > 1:
            self.note("all-reduce", 2 * self._others * tensor.nbytes)
        return _Done() if asynchronous else tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """``[ranks, *shape]``."""
        self.note("all-gather", (self.size - 1) * tensor.nbytes)
        return tensor.new_empty((self.size, *tensor.shape))

    def reduce_scatter(self, pieces: Tensor) -> Tensor:
        """Of ``pieces [ranks, *shape]`` one."""
        self.note("reduce-scatter", self._others * pieces.nbytes)
        return pieces.new_empty(pieces.shape[1:])

    def all_to_all(self, rows: Tensor) -> Tensor:
        """As many rows as leave, which are taken to go to all ranks evenly."""
        self.note("all-to-all", self._others * rows.nbytes)
        return rows.new_empty(rows.shape)

    def exchange(
        self, *, send: Sequence[tuple[Tensor, int]] = (), receive: Sequence[tuple[Tensor, int]] = (), tag: int = 0
    ) -> _Done:
        """Nothing arrives."""
        self.note("send", sum(tensor.nbytes for tensor, _ in send))
        return _Done()

    @property
    def _others(self) -> float:
        return (self.size - 1) / self.size
