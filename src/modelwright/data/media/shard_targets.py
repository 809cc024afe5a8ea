"""Targets of samples, collected: classes by number or name, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError


def named_targets(values: Sequence[Any], ending: str) -> tuple[NDArray[Any], list[str]]:
    """Targets of all samples, and the names of classes if they have any.

    Texts become int64 ``[samples]``, numbered in the order of the alphabet; integers stay as they are; other
    numbers become float32 ``[samples, ...]``, at least one wide.

    Raises:
        ModelwrightError: targets are of several kinds or shapes, or a class is negative.
    """
    if all(isinstance(value, str) for value in values):
        texts = [value.strip() for value in values]
        names = sorted(set(texts))
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([numbers[text] for text in texts], dtype=np.int64), names
    try:
        found = np.array(values)
    except ValueError:
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "biuf":
        raise ModelwrightError(
            f"the targets '{ending}' are not all texts, nor all numbers of one shape",
            where="targets",
            remedy="give every sample a target of one kind",
        )
    if found.dtype.kind == "f":
        return found.astype(np.float32).reshape(len(found), *(found.shape[1:] or (1,))), []
    if found.ndim == 1 and int(found.min()) < 0:
        raise ModelwrightError(
            f"a target is {int(found.min())}, but classes count from 0", where="targets", remedy="number them from 0"
        )
    return found.astype(np.int64), []
