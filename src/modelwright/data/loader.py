"""Loader: the micro-batches of each step, read ahead: many small steps at once, or large ones by a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset
from modelwright.data.batches import alike, read
from modelwright.data.order import Order

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch

_AHEAD = 2  # Steps that the thread reads in advance.
_MOST_STEPS, _MOST_BYTES = 64, 2**20  # Of what is read at once.
_ALIGNED = 64  # Bytes; so torch allocates on a CPU.
# Reading that takes longer for a step is left to a thread. Below, the thread would cost more than it saves: it and the
# loop take turns at Python's lock.
_SLOW = 200e-6


class Loader:
    """The samples of one rank, step by step: an iterable of lists of micro-batches.

    Step ``s`` takes the positions ``[position + s * batch, position + (s + 1) * batch)`` of the order, and
    this rank the slice ``part`` of them. Small samples that are quickly read are read for several steps at once, where
    each is the same whichever others it is read with (:func:`modelwright.data.batches.alike`); others by a thread, with
    one batched read per step, that is up to two steps ahead and ends with the iteration, however that ends.

    Args:
        dataset: where samples come from.
        order: which sample is at which position.
        batch: samples of one step over all ranks.
        part: this rank's slice ``(begin, end)`` of them; may be empty.
        micro_batch: samples of one micro-batch, at most.
        position: where to begin.
        steps: how many steps.
        pin: copy to pinned memory, from which an accelerator reads without waiting.

    Raises:
        ModelwrightError: the slice or a size makes no sense; while iterating, the data set failed.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        *,
        batch: int,
        part: tuple[int, int] | None = None,
        micro_batch: int,
        position: int = 0,
        steps: int,
        pin: bool = False,
    ) -> None:
        self._begin, self._end = (0, batch) if part is None else part
        if not 0 <= self._begin <= self._end <= batch:
            raise ModelwrightError(f"{part} is no part of a batch of {batch} samples")
        if batch < 1 or micro_batch < 1:
            raise ModelwrightError(f"batch ({batch}) and micro-batch ({micro_batch}) take at least one sample")
        self._dataset, self._order = dataset, order
        self._batch, self._micro_batch = batch, micro_batch
        self._position, self._steps, self._pin = position, steps, pin

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step, in order."""
        done = 0
        for step in self._at_once():
            yield step
            done += 1
        if done == self._steps:
            return
        ahead = _ReadAhead(self, done)
        try:
            for _ in range(done, self._steps):
                yield ahead.next()
        finally:
            ahead.close()

    def step(self, number: int) -> list[Batch]:
        """The micro-batches of step ``number``, counted from 0, read now."""
        (batches,) = self._read(number, 1)
        return batches

    def _at_once(self) -> Iterator[list[Batch]]:
        """The steps from the first one on, for as long as several of them are quickly read together."""
        if self._steps == 0:
            return
        yield (first := self.step(0))
        begin, count = 1, self._together(first)
        while count > 1 and begin < self._steps:
            count = min(count, self._steps - begin)
            before = time.perf_counter()
            try:
                steps = self._read(begin, count)
            except ModelwrightError:
                return  # of whichever step it is: the thread comes to it in its turn
            slow = time.perf_counter() - before > _SLOW * count
            yield from steps
            begin += count
            if slow:
                return

    def _together(self, step: list[Batch]) -> int:
        if not alike(self._dataset):
            return 1  # what is padded to the longest would be padded to that of many steps
        size = sum(tensor.nbytes for batch in step for tensor in batch.values())
        return min(_MOST_STEPS, _MOST_BYTES // max(size, 1))

    def _read(self, number: int, count: int) -> list[list[Batch]]:
        """``count`` steps from step ``number`` on, with one read."""
        share = self._end - self._begin
        if share == 0:
            return [[] for _ in range(count)]
        first = self._position + number * self._batch + self._begin
        positions = np.add.outer(np.arange(count) * self._batch, np.arange(first, first + share)).ravel()
        try:
            batch = read(self._dataset, self._order(positions))
        except Exception as error:
            raise _placed(error, f"positions {positions[0]} to {positions[-1]} of the order") from error
        batch = {name: whole.pin_memory() if self._pin else _at_home(whole) for name, whole in batch.items()}
        if count == 1:
            return [self._cut(batch, share)]
        columns = [[_at_home(part) for part in torch.split(whole, share)] for whole in batch.values()]
        return [self._cut(dict(zip(batch, parts, strict=True)), share) for parts in zip(*columns, strict=True)]

    def _cut(self, batch: Batch, share: int) -> list[Batch]:
        if share <= self._micro_batch:
            return [batch]
        return [
            {name: tensor[start : start + self._micro_batch] for name, tensor in batch.items()}
            for start in range(0, share, self._micro_batch)
        ]


def _at_home(part: Tensor) -> Tensor:
    """``part`` of a tensor, or of an array, where torch would have put it.

    Products round by where in memory their factors lie; a resumed run, which reads other steps together, is to give the
    same bits.
    """
    return part.clone() if part.is_floating_point() and part.data_ptr() % _ALIGNED else part


class _ReadAhead:
    """The thread behind one iteration. ``_free`` counts places in the queue, so nobody polls."""

    def __init__(self, loader: Loader, begin: int) -> None:
        self._loader, self._begin = loader, begin
        self._read: SimpleQueue[list[Batch] | Exception] = SimpleQueue()
        self._free = threading.Semaphore(_AHEAD)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="modelwright-loader", daemon=True)
        self._thread.start()

    def next(self) -> list[Batch]:
        batches = self._read.get()
        self._free.release()
        if isinstance(batches, Exception):
            raise batches
        return batches

    def close(self) -> None:
        self._closed = True
        self._free.release()
        self._thread.join()

    def _run(self) -> None:
        for number in range(self._begin, len(self._loader)):
            self._free.acquire()
            if self._closed:
                return
            try:
                self._read.put(self._loader.step(number))
            except Exception as error:
                self._read.put(error)
                return


def _placed(error: Exception, place: str) -> ModelwrightError:
    if not isinstance(error, ModelwrightError):
        return ModelwrightError(f"reading data failed: {type(error).__name__}: {error}", where=place)
    where = f"{error.where}, {place}" if error.where else place
    return ModelwrightError(error.what, where=where, remedy=error.remedy)
