"""A share: the samples of each step that one rank has, and how they are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read, there

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch, Dataset, Ordering

_ALIGNED = 64  # Bytes; so torch allocates on a CPU.
ORDERED = 16384  # Positions for which the order is asked at once: for a few of them it takes as long.

Indices = NDArray[np.int64]


class Loaded(NamedTuple):
    """A step as one rank has it.

    Attributes:
        indices: of its samples, in order, int64 ``[samples]``.
        batches: its micro-batches; none where it has no sample.
    """

    indices: Indices
    batches: list[Batch]


class Share:
    """One rank's part of each step.

    Args:
        dataset: where samples come from.
        order: which sample is at which position; -1 where there is none.
        batch: positions of one step over all ranks.
        part: this rank's slice ``(begin, end)`` of them.
        micro_batch: samples of one micro-batch, at most.
        position: of the first step.
        steps: how many.
        pin: copy to pinned memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Ordering,
        *,
        batch: int,
        part: tuple[int, int],
        micro_batch: int,
        position: int,
        steps: int,
        pin: bool = False,
    ) -> None:
        self.dataset, self.steps, self.pin = dataset, steps, pin
        self._order, self._batch, self._micro_batch, self._position = order, batch, micro_batch, position
        self._begin, self._size = part[0], part[1] - part[0]
        self._ordered: tuple[int, Indices] = (0, np.empty((0, self._size), dtype=np.int64))

    @property
    def size(self) -> int:
        """Positions of one step."""
        return self._size

    def read(self, number: int, count: int = 1) -> list[Loaded]:
        """``count`` steps from step ``number`` on, counted from 0, with one read.

        Raises:
            ModelwrightError: the data set failed, or the order.
        """
        steps = self.indices(number, count)
        return self.cut(steps, self.whole(steps, number))

    def indices(self, number: int, count: int) -> list[Indices]:
        """What there is at the positions of ``count`` steps from step ``number`` on: an array for each step."""
        try:
            steps = self._in_order(number, count)
            found = there(self.dataset, steps)
        except Exception as error:
            raise self._placed(error, number, count) from error
        if found.all():
            return list(steps)
        return [indices[present] for indices, present in zip(steps, found, strict=True)]

    def whole(self, steps: Sequence[Indices], number: int) -> Batch:
        """The samples of ``steps``, of which the first is step ``number``, in one batch; empty where there are none."""
        asked = np.concatenate(steps)  # a copy: what the order gave is kept, and data sets may write to what they get
        if not len(asked):
            return {}
        try:
            return {name: _dense(tensor) for name, tensor in read(self.dataset, asked).items()}
        except Exception as error:
            raise self._placed(error, number, len(steps)) from error

    def cut(self, steps: Sequence[Indices], batch: Batch) -> list[Loaded]:
        """The micro-batches of each step, of what :meth:`whole` gave."""
        batch = {name: self._settled(tensor) for name, tensor in batch.items()}
        if len(steps) == 1:
            return [Loaded(steps[0], self._micro_batches(batch, len(steps[0])))]
        sizes = [len(indices) for indices in steps]
        parts = {name: map(self._at_home, torch.split(tensor, sizes)) for name, tensor in batch.items()}
        rows = zip(*parts.values(), strict=True) if parts else iter(() for _ in steps)
        return [
            Loaded(indices, self._micro_batches(dict(zip(parts, row, strict=True)), len(indices)))
            for indices, row in zip(steps, rows, strict=True)
        ]

    def bare(self) -> Share:
        """The same for a process that has no accelerator: without pinned memory."""
        other = copy.copy(self)
        other.pin = False
        return other

    def place(self, number: int, count: int = 1) -> str:
        """Which positions ``count`` steps from step ``number`` on take, for messages."""
        last = self._first(number + count - 1) + max(0, self._size - 1)
        return f"positions {self._first(number)} to {last} of the order"

    def _micro_batches(self, batch: Batch, size: int) -> list[Batch]:
        if size <= self._micro_batch:
            return [batch] if size else []
        pieces = zip(*(torch.split(tensor, self._micro_batch) for tensor in batch.values()), strict=True)
        return [dict(zip(batch, piece, strict=True)) for piece in pieces]

    def _settled(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.pin else self._at_home(tensor)

    def _at_home(self, part: Tensor) -> Tensor:
        """``part`` of a tensor, or of an array, where torch would have put it.

        Products round by where in memory their factors lie; a resumed run, which reads other steps together, is to give
        the same bits.
        """
        strange = part.is_floating_point() and part.data_ptr() % _ALIGNED and not self.pin
        return part.clone() if strange else part

    def _in_order(self, number: int, count: int) -> Indices:
        """Indices ``[count, size]`` of steps, from an order that was asked for some more."""
        begin, known = self._ordered
        if not begin <= number <= number + count <= begin + len(known):
            ahead = min(ORDERED // max(1, self._size), self.steps - number)
            begin, known = self._ordered = number, self._ask(number, max(count, ahead))
        return known[number - begin : number - begin + count]

    def _ask(self, number: int, count: int) -> Indices:
        firsts = self._first(number) + np.arange(count) * self._batch
        positions = np.add.outer(firsts, np.arange(self._size))
        return np.asarray(self._order(positions.ravel())).reshape(positions.shape)

    def _first(self, number: int) -> int:
        return self._position + number * self._batch + self._begin

    def _placed(self, error: Exception, number: int, count: int) -> ModelwrightError:
        place = self.place(number, count)
        if not isinstance(error, ModelwrightError):
            return ModelwrightError(f"reading data failed: {type(error).__name__}: {error}", where=place)
        where = f"{error.where}, {place}" if error.where else place
        return ModelwrightError(error.what, where=where, remedy=error.remedy)


def _dense(tensor: Tensor) -> Tensor:
    """``tensor`` with strides that another process can send: products round by them, too."""
    if tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor
    return tensor.contiguous()
