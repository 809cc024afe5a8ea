"""The column to be learnt: classes with names, or a quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.columns import Number, is_blank, level


@dataclass(frozen=True)
class Classes:
    """A target that is one of some ``classes``; class ``i`` is the ``i``-th."""

    name: str
    classes: tuple[Any, ...]
    _numbers: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {level(name): index for index, name in enumerate(self.classes)})

    @property
    def outputs(self) -> int:
        """The width of a model's output."""
        return len(self.classes)

    def raw(self, values: Sequence[Any], places: Sequence[str]) -> NDArray[np.int64]:
        """Indices of the classes, ``[rows]``.

        Raises:
            ModelwrightError: a row has no target.
        """
        return np.array([self._index(value, place) for value, place in zip(values, places, strict=True)], np.int64)

    def decode(self, outputs: Tensor) -> list[Any]:
        """The likeliest class of each of ``outputs [samples, classes]``, by its name in the data."""
        return [self.classes[index] for index in outputs.argmax(dim=-1).tolist()]

    def described(self) -> dict[str, Any]:
        """JSON that :func:`target_of` reads."""
        return {"name": self.name, "kind": "classification", "classes": list(self.classes)}

    def _index(self, value: Any, place: str) -> int:
        index = None if is_blank(value) else self._numbers.get(level(value))
        if index is None and isinstance(value, str):  # '01' among numbers
            index = self._numbers.get(_plain(value))
        if index is None:
            raise without_target(self.name, place)
        return index


@dataclass(frozen=True)
class Quantity:
    """A target that is a number; models learn ``(number - mean) / spread``."""

    name: str
    mean: float = 0.0
    spread: float = 1.0

    outputs = 1

    def raw(self, values: Sequence[Any], places: Sequence[str]) -> NDArray[np.float64]:
        """The numbers as they are, ``[rows]``.

        Raises:
            ModelwrightError: a row has no target, or one that is no number.
        """
        found = Number(self.name).raw(values, places)[:, 0]
        if (missing := np.isnan(found)).any():
            raise without_target(self.name, places[int(missing.argmax())])
        return found

    def decode(self, outputs: Tensor) -> list[float]:
        """Each of ``outputs [samples, 1]`` in the units of the data."""
        numbers: list[float] = (outputs.double().reshape(len(outputs), -1)[:, 0] * self.spread + self.mean).tolist()
        return numbers

    def described(self) -> dict[str, Any]:
        """JSON that :func:`target_of` reads."""
        return {"name": self.name, "kind": "regression", "mean": self.mean, "spread": self.spread}


Target = Classes | Quantity


def target_of(described: Mapping[str, Any]) -> Target:
    """A target from its description."""
    if described["kind"] == "classification":
        return Classes(described["name"], tuple(described["classes"]))
    return Quantity(described["name"], float(described["mean"]), float(described["spread"]))


def class_names(levels: Sequence[str], numbers: bool) -> tuple[Any, ...]:
    """Levels in the order of their classes: numbers by size, texts by alphabet."""
    if not numbers:
        return tuple(sorted(levels))
    return tuple(sorted({_number(text) for text in levels}))


def without_target(name: str, place: str) -> ModelwrightError:
    """An error for a row that cannot be learnt from."""
    return ModelwrightError(
        f"a row has no target: '{name}' is missing",
        where=place,
        remedy="take the row out, or give it a target",
    )


def _number(text: str) -> int | float:
    if text.strip().lstrip("+-").isdecimal():
        return int(text)  # a float holds 53 bits of it
    value = float(text)
    return int(value) if value.is_integer() else value


def _plain(text: str) -> str:
    try:
        return level(float(text))
    except ValueError:
        return text
