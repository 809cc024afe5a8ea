"""The first look at a table: what each column holds, and which rows are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.data.tables.columns import is_blank, is_list, is_missing_number, level, number, quick

MOST_LEVELS = 100_000  # that are remembered of one column
Lots = NDArray[np.float64]


def lots(columns: Sequence[Sequence[Any]], seed: int) -> Lots:
    """A number in [0, 1) for each row that depends on its values and the seed only: equal rows draw equal lots."""
    rows = zip(*columns, strict=True)
    return np.array([_lot("\0".join(map(str, row)), seed) for row in rows], dtype=np.float64)


class ColumnScan:
    """What was seen of one column so far.

    Attributes:
        levels: each text seen, and the highest lot of its rows: a level is known from training if that is not
            held out.
        widths: each length of lists seen, 1 for plain numbers, and where first.

    Args:
        name: the column.
        all_levels: remember numbers among the levels too.
    """

    def __init__(self, name: str, all_levels: bool = False) -> None:
        self.name = name
        self.levels: dict[str, float] = {}
        self.widths: dict[int, str] = {}
        self.whole = True
        self.first_text: tuple[str, str] | None = None
        self.blank: str | None = None
        self._all_levels = all_levels

    @property
    def mixed(self) -> bool:
        """Whether numbers and texts were seen."""
        return self.first_text is not None and bool(self.widths)

    def add(self, values: Sequence[Any], places: Sequence[str], drawn: Lots) -> None:
        """Look at some values.

        Raises:
            ModelwrightError: a value is neither number, nor text, nor a list of numbers.
        """
        found = None if self._all_levels else quick(values)
        if found is not None:
            if not np.isnan(found).all():
                self.widths.setdefault(found.shape[1], places[0])
            return
        for value, place, lot in zip(values, places, drawn.tolist(), strict=True):
            self._add_one(value, place, lot)

    def width(self) -> int:
        """The length of lists, 1 for numbers; 1 where nothing was seen.

        Raises:
            ModelwrightError: lists differ in length.
        """
        if len(self.widths) > 1:
            (one, here), (other, there), *_ = self.widths.items()
            raise ModelwrightError(
                f"column '{self.name}' holds {one} numbers in one row and {other} in another",
                where=f"{here}, {there}",
                remedy="give every row as many, or leave the column out of features",
            )
        return next(iter(self.widths), 1)

    def _add_one(self, value: Any, place: str, lot: float) -> None:
        if isinstance(value, dict | bytes):
            raise ModelwrightError(
                f"column '{self.name}' holds {'objects' if isinstance(value, dict) else 'bytes'}",
                where=place,
                remedy="name the columns to learn from in features, or write what it holds as columns",
            )
        if is_list(value):
            self._add_list(value, place)
            return
        if is_blank(value):
            self.blank = self.blank or place
            return
        text = self._is_text(value)
        if text and self.first_text is None and not is_missing_number(value):
            self.first_text = (str(value), place)
        if not text:
            self.widths.setdefault(1, place)
            self.whole = self.whole and _is_whole(value)
        if (text or self._all_levels) and (len(self.levels) <= MOST_LEVELS or level(value) in self.levels):
            self.levels[level(value)] = max(lot, self.levels.get(level(value), -1.0))

    def _add_list(self, value: Sequence[Any], place: str) -> None:
        self.whole = False
        try:
            [number(part) for part in value]
        except (TypeError, ValueError):
            raise ModelwrightError(
                f"column '{self.name}' holds lists of something other than numbers",
                where=place,
                remedy="name the columns to learn from in features",
            ) from None
        self.widths.setdefault(len(value), place)

    def _is_text(self, value: Any) -> bool:
        """Words for 'missing' are texts in a column of texts; whether it is one is known only at the end."""
        try:
            number(value)
        except (TypeError, ValueError):
            return True
        return isinstance(value, str) and is_missing_number(value)


def check_columns(there: Collection[str], wanted: Sequence[str], place: str, where: str) -> None:
    """Refuse a column that is not among those of the first rows.

    Raises:
        ModelwrightError: names the missing column and the nearest there is.
    """
    for name in wanted:
        if name not in there:
            what = f"there is no column '{name}' in the rows from {place} on"
            raise ModelwrightError(what, where=where, remedy=nearest(name, there))


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lstrip("+-").isdigit()
    return isinstance(value, int | np.integer)


def _lot(text: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
