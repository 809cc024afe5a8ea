"""Data held in memory, parts of a data set, and what a Python user may pass as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Splits
from modelwright.data.batches import ACCEPTED, alike, decodes, read, there
from modelwright.data.order import Order

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions


class InMemory:
    """Arrays or tensors of equal length, one sample per row.

    Args:
        arrays: name -> array ``[samples, ...]``; memory-mapped ones stay on disk until they are read.

    Raises:
        ModelwrightError: no arrays, none of them rows, or different lengths.
    """

    alike: ClassVar[bool] = True

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = {name: _rows(name, value) for name, value in arrays.items()}
        lengths = {name: len(value) for name, value in self.arrays.items()}
        if not lengths:
            raise ModelwrightError("there are no arrays to take samples from")
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ModelwrightError(f"arrays of one data set differ in length: {shown}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitems__(self, positions: Positions) -> Batch:
        """Rows at ``positions``, copied: name -> ``[len(positions), ...]``."""
        indices = np.asarray(positions, dtype=np.int64)
        return {name: _taken(value, indices) for name, value in self.arrays.items()}


class Part:
    """A fixed random part of a data set: the places ``[begin, end)`` of one keyed permutation of it.

    Args:
        dataset: the whole.
        order: the permutation; parts of one order do not overlap.
        begin, end: places within its first epoch.
    """

    def __init__(self, dataset: Dataset, order: Order, begin: int, end: int) -> None:
        self._dataset, self._order = dataset, order
        self._begin, self._end = begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def alike(self) -> bool:
        """Whether the samples of the whole are."""
        return alike(self._dataset)

    @property
    def decodes(self) -> bool:
        """Whether reading a sample of the whole takes computing."""
        return decodes(self._dataset)

    def present(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples of the part the whole has."""
        return there(self._dataset, self._order(np.asarray(indices, dtype=np.int64) + self._begin))

    def __getitems__(self, positions: Positions) -> Batch:
        """Samples of the whole at the permuted places."""
        return read(self._dataset, self._order(np.asarray(positions, dtype=np.int64) + self._begin))


def halves(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """A random part to learn from and a part of ``fraction`` to judge by, each at least one sample.

    Raises:
        ModelwrightError: a part is held out of a single sample.
    """
    if fraction == 0:
        return dataset, None
    length = len(dataset)
    if length < 2:
        raise ModelwrightError(f"nothing can be held out of {length} samples", remedy="held_out: 0")
    held = min(max(1, round(length * fraction)), length - 1)
    order = Order(length, seed)
    return Part(dataset, order, held, length), Part(dataset, order, 0, held)


def facts_of(inputs: Any, targets: Any) -> dict[str, int]:
    """What a model must know of arrays ``[samples, ...]``.

    Returns:
        ``features``: numbers in one sample, where inputs are floats. ``classes``: the width of an output,
        which is the number of classes where targets are integers ``[samples]``, and of numbers where they are
        floats.

    Raises:
        ModelwrightError: a class is negative (-100 stands for no target).
    """
    facts: dict[str, int] = {}
    if _is_float(inputs):
        facts["features"] = math.prod(inputs.shape[1:])
    if targets is None:
        return facts
    if _is_float(targets):
        facts["classes"] = math.prod(targets.shape[1:])
    elif targets.ndim == 1 and len(targets):
        facts["classes"] = _classes(targets)
    return facts


def splits_of(data: Any, held_out: Any = None) -> Splits:
    """Data as a Python user passes it, as :class:`Splits`.

    Args:
        data: splits; a map-style data set; tensors or arrays ``(inputs, targets)``; a dict of them; or one.
        held_out: samples to judge by, as any of these but splits; replaces those of ``data``.

    Raises:
        ModelwrightError: it is none of these, or is empty.
    """
    splits = data if isinstance(data, Splits) else Splits(train=_dataset(data), facts=_facts(data))
    if len(splits.train) == 0:
        raise ModelwrightError("the training data is empty")
    if held_out is None:
        return splits
    return replace(splits, held_out=_dataset(held_out))


def _dataset(data: Any) -> Dataset:
    if isinstance(data, (Tensor, np.ndarray)):
        return InMemory({"inputs": data})
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        return InMemory({"inputs": data[0], "targets": data[1]})
    if isinstance(data, dict):
        return InMemory(data)
    if hasattr(data, "__len__") and (hasattr(data, "__getitems__") or hasattr(data, "__getitem__")):
        return data  # type: ignore[no-any-return]
    raise ModelwrightError(
        f"a {type(data).__name__} is no data set",
        remedy=f"pass tensors (inputs, targets), or what has __len__ and __getitem__; a sample may be {ACCEPTED}",
    )


def _facts(data: Any) -> dict[str, int]:
    dataset = _dataset(data)
    if not isinstance(dataset, InMemory) or "inputs" not in dataset.arrays:
        return {}
    return facts_of(dataset.arrays["inputs"], dataset.arrays.get("targets"))


def _rows(name: str, value: Any) -> Any:
    rows = value if isinstance(value, (Tensor, np.ndarray)) else np.asarray(value)
    if rows.ndim == 0:
        raise ModelwrightError(f"'{name}' is a single number, not rows of samples")
    return rows


def _taken(rows: Any, indices: np.ndarray[Any, Any]) -> Tensor:
    if isinstance(rows, Tensor):
        return rows.index_select(0, torch.from_numpy(indices))
    return torch.from_numpy(np.ascontiguousarray(rows[indices]))


def _is_float(rows: Any) -> bool:
    if isinstance(rows, Tensor):
        return rows.is_floating_point()
    return bool(np.issubdtype(rows.dtype, np.floating))


def _classes(targets: Any) -> int:
    valid = targets[targets != -100]
    least, most = (int(valid.min()), int(valid.max())) if len(valid) else (0, -1)
    if least < 0:
        raise ModelwrightError(
            f"a target is {least}, but classes count from 0",
            remedy="number the classes from 0; -100 stands for no target",
        )
    return most + 1
