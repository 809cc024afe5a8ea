"""One way to read any map-style data set: a batch of named tensors."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.base.errors import ModelwrightError

if TYPE_CHECKING:
    from modelwright.data import Batch, Dataset, Positions

ACCEPTED = "a dict of tensors, arrays or numbers; a tuple (inputs, targets); or one tensor or array"


def alike(dataset: Dataset) -> bool:
    """Whether samples have one shape, whichever they are read with.

    Not so where a batch is padded to the longest in it. A data set that reads sample by sample is alike, or cannot be
    read; one with ``__getitems__`` says so by an attribute ``alike``.
    """
    return not hasattr(dataset, "__getitems__") or bool(getattr(dataset, "alike", False))


def decodes(dataset: Dataset) -> bool:
    """Whether reading a sample takes computing (an image is decoded), rather than copying: an attribute ``decodes``."""
    return bool(getattr(dataset, "decodes", False))


def there(dataset: Dataset, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``indices`` name a sample: -1 is a hole, and so is what the data set's ``present(indices)`` denies.

    Returns:
        Of the same shape.
    """
    found = indices >= 0
    present = getattr(dataset, "present", None)
    if present is not None and found.any():
        found[found] = present(indices[found])
    return found


def first_there(dataset: Dataset, samples: int) -> NDArray[np.int64]:
    """Up to ``samples`` in a row, from the first that is no hole; looked for all over the data."""
    spread = np.unique(np.linspace(0, len(dataset) - 1, 4096).astype(np.int64))
    here = spread[there(dataset, spread)]
    begin = int(here[0]) if here.size else 0
    row = np.arange(begin, min(begin + samples, len(dataset)))
    return row[there(dataset, row)]


def read(dataset: Dataset, positions: Positions) -> Batch:
    """Samples of ``dataset`` at ``positions`` as one batch, samples first.

    A data set with ``__getitems__`` is read at once, any other sample by sample. A tuple becomes ``inputs``
    and ``targets``, a bare tensor becomes ``inputs``.

    Raises:
        ModelwrightError: the data set failed, or gave something else, or samples of different shapes.
    """
    indices = np.asarray(positions, dtype=np.int64)
    whole = getattr(dataset, "__getitems__", None)
    if whole is None:
        return _stacked([_sample(dataset, int(index)) for index in indices], indices)
    try:
        batch = whole(indices)
    except ModelwrightError:
        raise
    except Exception as error:
        raise _failed(f"samples {_shown(indices)}", error) from error
    if isinstance(batch, list):  # torch's own convention for __getitems__: a list of samples
        return _stacked([_named(sample) for sample in batch], indices)
    return _checked(_named(batch), len(indices))


def _sample(dataset: Dataset, index: int) -> dict[str, Tensor]:
    try:
        sample = dataset[index]  # type: ignore[index]
    except ModelwrightError:
        raise
    except Exception as error:
        raise _failed(f"sample {index}", error) from error
    return _named(sample)


def _named(sample: Any) -> dict[str, Tensor]:
    if isinstance(sample, Mapping):
        return {str(name): _tensor(value) for name, value in sample.items()}
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return {"inputs": _tensor(sample[0]), "targets": _tensor(sample[1])}
    if isinstance(sample, (Tensor, np.ndarray)):
        return {"inputs": _tensor(sample)}
    raise _unaccepted(f"a {type(sample).__name__}")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unaccepted(f"a {type(value).__name__} inside a sample") from error


def _stacked(samples: Sequence[Mapping[str, Tensor]], indices: np.ndarray[Any, Any]) -> Batch:
    if not samples:
        return {}
    for sample, index in zip(samples, indices, strict=True):
        if sample.keys() != samples[0].keys():
            raise ModelwrightError(
                f"samples of one data set have different names: {sorted(samples[0])} and {sorted(sample)}",
                where=f"samples {indices[0]} and {index}",
            )
    return {name: _stack(name, [sample[name] for sample in samples], indices) for name in samples[0]}


def _stack(name: str, values: Sequence[Tensor], indices: np.ndarray[Any, Any]) -> Tensor:
    for value, index in zip(values, indices, strict=True):
        if value.shape != values[0].shape:
            raise ModelwrightError(
                f"'{name}' differs in shape: {list(values[0].shape)} and {list(value.shape)}",
                where=f"samples {indices[0]} and {index}",
                remedy="pad or cut the samples to one shape",
            )
    return torch.stack(list(values))


def _checked(batch: Batch, count: int) -> Batch:
    for name, value in batch.items():
        if value.ndim == 0 or len(value) != count:
            raise ModelwrightError(
                f"__getitems__ was asked for {count} samples and gave '{name}' of shape {list(value.shape)}",
                remedy="return tensors whose first dim is the samples",
            )
    return batch


def _failed(which: str, error: Exception) -> ModelwrightError:
    *_, frame = traceback.extract_tb(error.__traceback__)
    return ModelwrightError(
        f"the data set failed on {which}: {type(error).__name__}: {error}",
        where=which,
        remedy=f"look at {frame.filename}:{frame.lineno}: every index below the length must give a sample",
    )


def _unaccepted(given: str) -> ModelwrightError:
    return ModelwrightError(f"the data set gave {given}", remedy=f"a sample may be {ACCEPTED}")


def _shown(indices: np.ndarray[Any, Any]) -> str:
    shown = ", ".join(str(index) for index in indices[:4])
    return f"{shown}, ..." if len(indices) > 4 else shown
