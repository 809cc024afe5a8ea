"""Data sets one after the other, read as one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Ordering
from modelwright.data.batches import alike, decodes, first_there, read, there
from modelwright.data.mixture.fields import check_fields
from modelwright.data.mixture.order import MixtureOrder, order_of
from modelwright.data.mixture.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch, Positions


class Joined:
    """Several data sets under one numbering: the first one's samples, then the second one's, and so on.

    Attributes:
        begins: name -> index of its first sample.

    Args:
        datasets: by name; none is empty, and all give samples of one kind.

    Raises:
        ModelwrightError: one is empty or pads to the longest of a batch, or their first samples differ in kind.
    """

    alike: ClassVar[bool] = True

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._names, self._datasets = list(datasets), list(datasets.values())
        for name, dataset in datasets.items():
            _check(name, dataset)
        ends = list(accumulate(map(len, self._datasets)))
        self._ends = np.array(ends, dtype=np.int64)
        self.begins = dict(zip(self._names, [0, *ends[:-1]], strict=True))
        first = {name: first_there(dataset, 1) for name, dataset in datasets.items()}
        check_fields({name: read(datasets[name], place) for name, place in first.items() if len(place)})

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def decodes(self) -> bool:
        """Whether reading takes computing in any of them."""
        return any(map(decodes, self._datasets))

    def __getitems__(self, positions: Positions) -> Batch:
        """Samples at ``positions``, in that order; one read of each data set.

        Raises:
            IndexError: there is no such sample.
            ModelwrightError: the data sets give different fields.
        """
        indices = np.asarray(positions, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"a sample of {indices.min()} to {indices.max()} is none of {len(self)}")
        shares = self._shares(indices)
        if len(shares) <= 1:
            number = next(iter(shares), 0)
            return read(self._datasets[number], indices - self._begin(number))
        batches = {
            self._names[number]: read(self._datasets[number], indices[places] - self._begin(number))
            for number, places in shares.items()
        }
        check_fields(batches)
        return _put_together(list(batches.values()), list(shares.values()), len(indices))

    def present(self, indices: Positions) -> NDArray[np.bool_]:
        """Which of the samples at ``indices [indices]`` can be read; a data set without holes has all of its own."""
        asked = np.asarray(indices, dtype=np.int64)
        found = np.zeros(asked.shape, dtype=np.bool_)
        for number, places in self._shares(asked).items():
            found[places] = there(self._datasets[number], asked[places] - self._begin(number))
        return found

    def _shares(self, indices: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Number of a data set -> places among ``indices`` that are its."""
        owners = np.searchsorted(self._ends, indices, side="right")
        return {int(owner): np.flatnonzero(owners == owner) for owner in np.unique(owners)}

    def _begin(self, number: int) -> int:
        return self.begins[self._names[number]]


class Mixed(Joined):
    """Sources as one data set that brings its own order.

    Its length is that of all sources together: an epoch of the mixture is as many samples. Where shares differ from
    sizes, small sources come round several times in it and large ones not to their end.

    Args:
        datasets: sources by name.
        schedule: their weights.
    """

    def __init__(self, datasets: Mapping[str, Dataset], schedule: Schedule) -> None:
        super().__init__(datasets)
        self._schedule = schedule

    def order(self, seed: int) -> MixtureOrder:
        """Which sample is at each position."""
        pairs = zip(self._names, self._datasets, strict=True)
        orders: dict[str, Ordering] = {name: order_of(dataset, name, seed) for name, dataset in pairs}
        return MixtureOrder(self._schedule, orders, self.begins)


def _check(name: str, dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise ModelwrightError(f"the source '{name}' is empty", where=f"sources.{name}")
    if not alike(dataset):
        raise ModelwrightError(
            f"samples of the source '{name}' are padded to the longest of a batch, so they cannot stand beside others",
            where=f"sources.{name}",
            remedy="set the length that its samples are padded to; a data set of your own says  alike = True",
        )


def _put_together(batches: list[Batch], places: list[NDArray[np.int64]], length: int) -> Batch:
    rows = [torch.from_numpy(each) for each in places]
    return {name: _gathered([batch[name] for batch in batches], rows, length) for name in batches[0]}


def _gathered(parts: list[Tensor], rows: list[Tensor], length: int) -> Tensor:
    shape = (length, *parts[0].shape[1:])
    whole = torch.empty(shape, dtype=parts[0].dtype, memory_format=_layout(parts))
    for part, places in zip(parts, rows, strict=True):
        whole.index_copy_(0, places, part)
    return whole


def _layout(parts: list[Tensor]) -> torch.memory_format:
    """That of the parts: products round by it, and a resumed run reads other samples together."""
    last = any(part.ndim == 4 and not part.is_contiguous() for part in parts)
    return torch.channels_last if last else torch.contiguous_format
