"""Columns of a table: from the values in rows to numbers, the same way for data learnt from and for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # in small letters; numbers only, but for ""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Number:
    """A column of numbers, or of lists of ``width`` numbers."""

    name: str
    width: int = 1

    def raw(self, values: Sequence[Any], places: Sequence[str]) -> Numbers:
        """``[rows, width]``, NaN where a value is missing.

        Raises:
            ModelwrightError: a text, an infinite number, or a list of another length.
        """
        found = quick(values)
        if found is None or found.shape[1] != self.width:
            rows = [self._row(value, place) for value, place in zip(values, places, strict=True)]
            found = np.array(rows, dtype=np.float64).reshape(-1, self.width)
        if np.isinf(found).any():
            row = int(np.isinf(found).any(axis=1).argmax())
            raise self._refused("an infinite number", places[row])
        return found

    def described(self) -> dict[str, Any]:
        """JSON that :func:`column_of` reads."""
        return {"name": self.name, "kind": "number", "width": self.width}

    def _row(self, value: Any, place: str) -> Numbers:
        if is_missing_number(value):
            return np.full(self.width, np.nan)
        try:
            row = np.array([number(part) for part in (value if is_list(value) else [value])])
        except (TypeError, ValueError):
            raise self._refused(repr(value), place) from None
        if len(row) != self.width:
            raise self._refused(f"{len(row)} values", place)
        return row

    def _refused(self, found: str, place: str) -> ModelwrightError:
        expected = "numbers" if self.width == 1 else f"lists of {self.width} numbers"
        return ModelwrightError(
            f"column '{self.name}' holds {expected}, and here stands {found}",
            where=place,
            remedy="mend the row",
        )


@dataclass(frozen=True)
class Category:
    """A column of texts out of ``levels``: a one for each level, or one code (0: none of them)."""

    name: str
    levels: tuple[str, ...]
    coding: Literal["one-hot", "codes"] = "one-hot"
    _codes: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_codes", {level: code for code, level in enumerate(self.levels, start=1)})

    @property
    def width(self) -> int:
        """Numbers that one value becomes."""
        return len(self.levels) if self.coding == "one-hot" else 1

    def codes(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """The place of each value among the levels ``[rows]``, from 1; 0 for what is missing or not among them."""
        return np.array([0 if is_blank(value) else self._codes.get(level(value), 0) for value in values], np.int64)

    def raw(self, values: Sequence[Any], places: Sequence[str]) -> Numbers:
        """``[rows, width]``; a value that is none of the levels gives zeros."""
        codes = self.codes(values)
        if self.coding == "codes":
            return codes[:, None].astype(np.float64)
        return np.asarray(codes[:, None] == np.arange(1, len(self.levels) + 1), dtype=np.float64)

    def described(self) -> dict[str, Any]:
        """JSON that :func:`column_of` reads."""
        return {"name": self.name, "kind": "category", "levels": list(self.levels), "coding": self.coding}


Column = Number | Category


def column_of(described: Mapping[str, Any]) -> Column:
    """A column from its description."""
    if described["kind"] == "number":
        return Number(described["name"], int(described["width"]))
    return Category(described["name"], tuple(described["levels"]), described["coding"])


def quick(values: Sequence[Any]) -> Numbers | None:
    """Values that are all numbers, or lists of equally many, as ``[rows, width]``; else ``None``."""
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found.reshape(len(found), -1) if found.ndim in (1, 2) and found.size else None


def number(value: Any) -> float:
    """A number, NaN where it is missing, infinite where it is too large.

    Raises:
        ValueError, TypeError: it is neither.
    """
    try:
        return float("nan") if is_missing_number(value) else float(value)
    except OverflowError:  # whole numbers have no bound
        return float("inf")


def is_missing_number(value: Any) -> bool:
    """Whether nothing stands where a number should: ``None``, blanks, ``NA``, ``NaN``, ``null``."""
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def is_blank(value: Any) -> bool:
    """Whether nothing stands where a text should."""
    return value is None or value == "" or value != value


def is_list(value: Any) -> bool:
    """Whether a value is several."""
    return isinstance(value, list | tuple | np.ndarray)


def level(value: Any) -> str:
    """A value as a text; ``3.0`` is ``3`` in any kind of file but those of texts."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
