"""What a prepared table remembers, so that new rows become inputs as the rows it was made of did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json, write_json
from modelwright.data.tables.columns import Category, Column, column_of, is_blank
from modelwright.data.tables.target import Target, target_of

if TYPE_CHECKING:
    from modelwright.data import Batch

FORMAT = 1
FILE = "table.json"
_SHOWN = 5


@dataclass(frozen=True)
class TableEncoder:
    """Rows to inputs ``[rows, features]``, and outputs to names or numbers.

    Attributes:
        columns: the features in order, each one or more numbers wide.
        target: the column that is learnt.
        missing: ``error`` or ``mean``.
        fill: what stands for a missing number, ``[features]``: the training rows' mean.
        mean, spread: inputs are ``(raw - mean) / spread``, ``[features]``.
    """

    columns: tuple[Column, ...]
    target: Target
    missing: str
    fill: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Batch:
        """``inputs`` float32 ``[rows, features]``, as the training rows' were made. Targets are not looked at.

        Raises:
            ModelwrightError: a row lacks a value and the table was prepared with ``missing: error``, or holds
                a text where numbers stand.
        """
        given = list(rows)
        places = [f"row {number}" for number in range(1, len(given) + 1)]
        raw, unknown, missing = raw_inputs(self.columns, given, places, self.missing)
        report_unknown(unknown)
        report_missing(missing, len(given))
        return {"inputs": torch.from_numpy(self.settled(raw))}

    def decode(self, outputs: Tensor) -> list[Any]:
        """Names of the likeliest classes of ``outputs [rows, classes]``; or numbers in the target's own units."""
        return self.target.decode(outputs.detach().cpu())

    def settled(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        """Raw numbers with missing ones filled in, standardised.

        Raises:
            ModelwrightError: a number does not fit into float32.
        """
        filled = np.where(np.isnan(raw), self.fill, raw)
        with np.errstate(over="ignore"):
            settled = ((filled - self.mean) / self.spread).astype(np.float32)
        if not np.isfinite(settled).all():
            place = int(np.flatnonzero(~np.isfinite(settled).all(axis=0))[0])
            raise ModelwrightError(
                f"column '{self._column_at(place)}' holds numbers beyond float32",
                remedy="set standardise: true, or scale the column",
            )
        return settled

    def save(self, folder: Path) -> None:
        """Write ``table.json``, which :func:`load` reads."""
        description = {
            "format": FORMAT,
            "columns": [column.described() for column in self.columns],
            "target": self.target.described(),
            "missing": self.missing,
            "fill": self.fill.tolist(),
            "mean": self.mean.tolist(),
            "spread": self.spread.tolist(),
        }
        write_json(folder / FILE, description)

    def _column_at(self, place: int) -> str:
        names = [column.name for column in self.columns for _ in range(column.width)]
        return names[place]


def load(folder: Path) -> TableEncoder:
    """The encoder of a prepared table.

    Raises:
        ModelwrightError: its description is missing, damaged, or of a newer version.
    """
    path = folder / FILE
    description = read_json(path)
    try:
        if description["format"] > FORMAT:
            raise ModelwrightError(
                "this table was prepared by a newer modelwright",
                where=str(path),
                remedy="upgrade: pip install -U modelwright",
            )
        fill, mean, spread = (np.array(description[name], np.float64) for name in ("fill", "mean", "spread"))
        columns = tuple(map(column_of, description["columns"]))
        return TableEncoder(columns, target_of(description["target"]), description["missing"], fill, mean, spread)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelwrightError(
            f"the description of the table is damaged: {error!r}",
            where=str(path),
            remedy=f"remove the folder {folder}; it is made again when it is needed",
        ) from error


def raw_inputs(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], places: Sequence[str], missing: str
) -> tuple[NDArray[np.float64], dict[str, list[str]], dict[str, int]]:
    """Rows as numbers ``[rows, features]``, NaN where one is missing; by column, texts that are no level and how many
    values are missing.

    Raises:
        ModelwrightError: a value is missing and ``missing`` is ``error``, or is of the wrong kind.
    """
    parts, unknown, blank = [], {}, {}
    for column in columns:
        values = [row.get(column.name) for row in rows]
        part = column.raw(values, places)
        lacking = _lacking(column, values, part)
        if lacking and missing == "error":
            raise _without_value(column, places[lacking[0]])
        if lacking:
            blank[column.name] = len(lacking)
        if isinstance(column, Category) and (strange := _strange(column, values)):
            unknown[column.name] = strange
        parts.append(part)
    return np.concatenate(parts, axis=1), unknown, blank


def report_unknown(unknown: Mapping[str, Sequence[str]]) -> None:
    """Tell of texts that the training rows do not hold."""
    for name, texts in unknown.items():
        shown = ", ".join(repr(text) for text in sorted(set(texts))[:_SHOWN])
        events.emit(
            "unknown-categories",
            f"{len(texts)} values of column '{name}' are in no training row, such as {shown}; they count as none",
            level="warning",
            column=name,
            values=len(texts),
        )


def report_missing(missing: Mapping[str, int], rows: int) -> None:
    """Tell of values that are missing: a column under another name lacks all of them."""
    for name, count in missing.items():
        whole = count == rows > 1
        events.emit(
            "missing-values",
            f"{count} of {rows} rows have no value in column '{name}'; the mean of the training rows, or no category,"
            " stands for it" + ("; is it under another name?" if whole else ""),
            level="warning" if whole else "info",
            column=name,
            values=count,
            rows=rows,
        )


def _strange(column: Category, values: Sequence[Any]) -> list[str]:
    codes = column.codes(values).tolist()
    return [str(value) for value, code in zip(values, codes, strict=True) if code == 0 and not is_blank(value)]


def _lacking(column: Column, values: Sequence[Any], raw: NDArray[np.float64]) -> list[int]:
    """Places of the rows that lack a value of a column."""
    if isinstance(column, Category):
        return [place for place, value in enumerate(values) if is_blank(value)]
    found: list[int] = np.flatnonzero(np.isnan(raw).any(axis=1)).tolist()
    return found


def _without_value(column: Column, place: str) -> ModelwrightError:
    return ModelwrightError(
        f"column '{column.name}' has no value",
        where=place,
        remedy="fill it in, or set missing: mean to take the mean of the training rows",
    )
