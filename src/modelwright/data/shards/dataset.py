"""Windows over many shards as one data set; a shard that is left out leaves holes, and nothing else moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.shards.opened import OpenShards
from modelwright.data.shards.order import ShardOrder
from modelwright.data.texts.windows import NOT_SCORED

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions


class ShardWindows:
    """Windows of tokens; no window crosses from one shard to the next.

    Sample ``i`` is found in the table of the shards' sizes, which includes those that are left out.

    Args:
        counts: windows in each shard.
        present: which shards can be read, bool ``[shards]``.
        shards: opens a shard by its number.
        context: tokens in a window, where a window is nothing but its tokens and those that follow; they are then
            copied without more ado, which matters where each lies in another shard.

    Raises:
        ModelwrightError: not a single window is left.
    """

    alike: ClassVar[bool] = True

    def __init__(
        self, counts: Sequence[int], present: Sequence[bool], shards: OpenShards, context: int | None = None
    ) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._present = np.asarray(present, dtype=np.bool_)
        self._ends = np.cumsum(self._counts)
        self._shards, self._context = shards, context
        readable = np.flatnonzero(self._present & (self._counts > 0))
        if not len(readable):
            raise _no_window(damaged=bool(np.any(self._counts > 0)))
        self._some = int(readable[0])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def present(self, indices: Positions) -> NDArray[np.bool_]:
        """Which of the samples can be read, bool of the same shape: those of no shard that is left out."""
        return np.asarray(self._present[self._shard(np.asarray(indices, dtype=np.int64))])

    def __getitems__(self, positions: Positions) -> Batch:
        """Windows at ``positions``; see :class:`modelwright.data.texts.windows.TokenWindows`.

        One of a shard that is left out is blank, and none of its targets is scored: whoever looks at a sample for its
        shape finds one.

        Raises:
            ModelwrightError: a shard is damaged, or cannot be reached.
        """
        indices = np.asarray(positions, dtype=np.int64)
        numbers = self._shard(indices)
        if not (there := self._present[numbers]).all():
            return self._blanked(indices, there)
        inside = indices - (self._ends - self._counts)[numbers]
        touched = np.unique(numbers)
        if len(touched) <= 1:
            return self._shards(int(touched[0]) if len(touched) else self._some).windows.__getitems__(inside)
        if self._context is not None:
            return self._copied(numbers, inside, self._context)
        return self._gathered(numbers, inside, touched)

    def _blanked(self, indices: NDArray[np.int64], there: NDArray[np.bool_]) -> Batch:
        stand_in = int((self._ends - self._counts)[self._some])
        batch = self.__getitems__(np.where(there, indices, stand_in))
        holes = torch.from_numpy(~there)
        batch["inputs"][holes], batch["targets"][holes] = 0, NOT_SCORED
        return batch

    def _gathered(self, numbers: NDArray[np.int64], inside: NDArray[np.int64], touched: NDArray[np.int64]) -> Batch:
        batch: Batch = {}
        for number in touched.tolist():
            here = torch.from_numpy(np.flatnonzero(numbers == number))
            for name, part in self._shards(number).windows.__getitems__(inside[here.numpy()]).items():
                if name not in batch:
                    batch[name] = torch.empty((len(numbers), *part.shape[1:]), dtype=part.dtype)
                batch[name][here] = part
        return batch

    def _copied(self, numbers: NDArray[np.int64], inside: NDArray[np.int64], context: int) -> Batch:
        tokens = np.empty((len(numbers), context + 1), dtype=np.int64)
        begins, turns = (inside * context).tolist(), np.argsort(numbers, kind="stable").tolist()
        for row in turns:  # shard after shard: few of a stream are open at once
            shard = self._shards(int(numbers[row]))
            tokens[row] = shard.tokens[begins[row] : begins[row] + context + 1]
        return {
            "inputs": torch.from_numpy(tokens[:, :-1].copy()),
            "targets": torch.from_numpy(tokens[:, 1:].copy()),
        }

    def _shard(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"samples {indices.min()} to {indices.max()} of {len(self)}")
        return np.asarray(np.searchsorted(self._ends, indices, side="right"), dtype=np.int64)


class GroupedWindows(ShardWindows):
    """Windows that bring an order of their own: a few shards at a time, so that a stream keeps only those.

    Args:
        counts, present, shards, context: as of :class:`ShardWindows`.
        together: shards whose windows are shuffled together.
        ahead: brings shards nearer that are read next, if there is something to bring.
    """

    def __init__(
        self,
        counts: Sequence[int],
        present: Sequence[bool],
        shards: OpenShards,
        context: int | None = None,
        *,
        together: int,
        ahead: Callable[[list[int]], None] | None = None,
    ) -> None:
        super().__init__(counts, present, shards, context)
        self._together, self._ahead = together, ahead
        self._order: ShardOrder | None = None
        self._expected: list[int] = []

    def order(self, seed: int) -> ShardOrder:
        """Which window is at each position, for global sampling."""
        self._order = ShardOrder(self._counts, seed=seed, together=self._together)
        return self._order

    def __getitems__(self, positions: Positions) -> Batch:
        """Windows at ``positions``; the shards that come next are fetched meanwhile."""
        batch = super().__getitems__(positions)
        if self._order is not None and self._ahead is not None:
            self._look_ahead(self._order.following())
        return batch

    def _look_ahead(self, shards: list[int]) -> None:
        wanted = [shard for shard in shards if self._present[shard] and self._counts[shard]]
        if wanted == self._expected:
            return
        self._expected = wanted
        threading.Thread(target=self._ahead, args=(wanted,), name="modelwright-shards", daemon=True).start()


def _no_window(*, damaged: bool) -> ModelwrightError:
    if damaged:
        return ModelwrightError(
            "every shard that holds a window of the context is damaged and left out",
            where="data.path",
            remedy="restore the shards; to see what is wrong:  modelwright data check FOLDER_OR_URL",
        )
    return ModelwrightError(
        "no shard holds a single window of the context", where="data.context", remedy="choose a shorter context"
    )
