"""Loader: the micro-batches of each step, read ahead: many small steps at once, large ones by a thread or processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset
from modelwright.data.batches import alike, decodes
from modelwright.data.reading.ahead import Here, ReadAhead, Source
from modelwright.data.reading.draws import read_watched
from modelwright.data.reading.judged import Judged
from modelwright.data.reading.readers import Readers
from modelwright.data.reading.share import Indices, Loaded, Share

if TYPE_CHECKING:
    from modelwright.data import Batch, Ordering

    Note = Callable[[int, Indices], None]

_MOST_STEPS, _MOST_BYTES = 64, 2**20  # Of what is read at once.
# Reading that takes longer for a step is left to a thread. Below, the thread would cost more than it saves: it and the
# loop take turns at Python's lock.
_SLOW = 200e-6


class Loader:
    """The samples of one rank, step by step: an iterable of lists of micro-batches.

    Step ``s`` takes the positions ``[position + s * batch, position + (s + 1) * batch)`` of the order, and
    this rank the slice ``part`` of them. Where the order gives -1, or the data set's ``present`` denies a sample, there
    is a hole: the step is smaller by it. A rank without a sample has no micro-batch.

    Small samples that are quickly read are read for several steps at once, where each is the same whichever others it
    is read with (:func:`modelwright.data.batches.alike`); others by a thread, with one batched read per step, that is
    up to two steps ahead and ends with the iteration, however that ends. Where the thread is too slow for a data set
    that ``decodes``, and there are spare cores, processes read. Who reads changes nothing but the time it takes.

    Args:
        dataset: where samples come from.
        order: which sample is at which position; -1 for none.
        batch: positions of one step over all ranks.
        part: this rank's slice ``(begin, end)`` of them; may be empty.
        micro_batch: samples of one micro-batch, at most.
        position: where to begin.
        steps: how many steps.
        pin: copy to pinned memory, from which an accelerator reads without waiting.
        note: told of each step, just before it is handed out and by whom it is handed to: its number within the run
            (``position // batch`` of its first position) and the indices of this rank's samples in it, in order.
        workers: processes that read; 0 for none, ``None`` to decide by what is measured. They take up to two seconds to
            start, and hold a step each; data in memory is copied to each of them, mapped files are not.

    Raises:
        ModelwrightError: the slice or a size makes no sense; while iterating, the data set failed, or cannot be sent to
            processes that were asked for.
        RunFailed: while iterating, a process that reads was killed.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Ordering,
        *,
        batch: int,
        part: tuple[int, int] | None = None,
        micro_batch: int,
        position: int = 0,
        steps: int,
        pin: bool = False,
        note: Note | None = None,
        workers: int | None = None,
    ) -> None:
        part = (0, batch) if part is None else part
        if not 0 <= part[0] <= part[1] <= batch:
            raise ModelwrightError(f"{part} is no part of a batch of {batch} samples")
        if batch < 1 or micro_batch < 1:
            raise ModelwrightError(f"batch ({batch}) and micro-batch ({micro_batch}) take at least one sample")
        if workers is not None and workers < 0:
            raise ModelwrightError(f"{workers} processes cannot read", where="workers", remedy="0 for none")
        self._share = Share(
            dataset,
            order,
            batch=batch,
            part=part,
            micro_batch=micro_batch,
            position=position,
            steps=steps,
            pin=pin,
        )
        self._steps, self._first, self._tells = steps, position // batch, part[0] == 0
        self._note, self._workers = note, workers

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step, in order."""
        done = 0
        for loaded in self._at_once():
            yield self._handed(done, loaded)
            done += 1
        if done == self._steps:
            return
        ahead = ReadAhead(self._source(), done, self._steps)
        try:
            for number in range(done, self._steps):
                yield self._handed(number, ahead.next())
        finally:
            ahead.close()

    def step(self, number: int) -> list[Batch]:
        """The micro-batches of step ``number``, counted from 0, read now; no note is taken."""
        (loaded,) = self._share.read(number)
        return loaded.batches

    def _handed(self, number: int, loaded: Loaded) -> list[Batch]:
        if self._note is not None:
            self._note(self._first + number, loaded.indices)
        return loaded.batches

    def _source(self) -> Source:
        if self._workers:
            return Readers(self._share, self._workers)
        if self._workers is None and decodes(self._share.dataset):
            return Judged(self._share)
        return Here(self._share)

    def _at_once(self) -> Iterator[Loaded]:
        """The steps from the first one on, for as long as several of them are quickly read together."""
        if self._steps == 0 or (self._workers and self._share.size):
            return
        first = read_watched(self._share, tell=self._tells)
        yield first
        begin, count = 1, self._together(first)
        while count > 1 and begin < self._steps:
            count = min(count, self._steps - begin)
            before = time.perf_counter()
            try:
                steps = self._share.read(begin, count)
            except ModelwrightError:
                return  # of whichever step it is: the thread comes to it in its turn
            slow = time.perf_counter() - before > _SLOW * count
            yield from steps
            begin += count
            if slow:
                return

    def _together(self, step: Loaded) -> int:
        """How many steps like ``step`` to read at once."""
        if self._share.size == 0:
            return _MOST_STEPS
        if not len(step.indices) or not alike(self._share.dataset) or decodes(self._share.dataset):
            return 1  # what is padded to the longest would be padded to that of many steps; decoding takes long
        size = sum(tensor.nbytes for batch in step.batches for tensor in batch.values())
        whole = size * self._share.size // len(step.indices)
        return min(_MOST_STEPS, _MOST_BYTES // max(whole, 1))
