"""From what was seen of a table to what becomes of it: which column is what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.columns import MISSING, Category, Column, Number
from modelwright.data.tables.scan import MOST_LEVELS, ColumnScan
from modelwright.data.tables.target import Classes, Quantity, Target, class_names

Kind = Literal["auto", "regression", "classification"]
Coding = Literal["one-hot", "codes"]

MOST_CLASSES_BY_ITSELF = 20
MOST_ONE_HOT = 1000


def feature(scan: ColumnScan, categorical: bool, coding: Coding, threshold: float, place: str) -> Column:
    """What a feature's values become; levels are those of rows whose lot is not below ``threshold``.

    Raises:
        ModelwrightError: the column holds numbers and texts, nothing at all, or too many texts.
    """
    if scan.mixed and not categorical:
        text, where = scan.first_text or ("", "")
        raise ModelwrightError(
            f"column '{scan.name}' holds numbers, and '{text}'",
            where=where,
            remedy=f"mend the row, or take all of it as texts: categorical: [{scan.name}]",
        )
    if scan.first_text is not None or categorical:
        return _category(scan, coding, threshold, place)
    if not scan.widths:
        raise ModelwrightError(
            f"column '{scan.name}' holds no value in any row", where=place, remedy="leave it out of features"
        )
    return Number(scan.name, scan.width())


def target(scan: ColumnScan, kind: Kind, declared: Sequence[str] | None) -> Target:
    """What is to be learnt, before its mean and spread are known.

    ``auto``: texts, truth values, and whole numbers of which there are at most 20 different ones are classes.

    Raises:
        ModelwrightError: the column holds what its kind cannot be, or a single class.
    """
    chosen = _kind(scan) if kind == "auto" else kind
    if chosen == "regression":
        return _quantity(scan)
    if len(scan.levels) > MOST_LEVELS:
        raise ModelwrightError(
            f"column '{scan.name}' holds over {MOST_LEVELS} different values; they are no classes",
            where="kind",
            remedy="kind: regression, or another target",
        )
    if scan.widths.keys() - {1}:
        raise _lists(scan)
    names = tuple(declared) if declared else _names(scan)
    if len(names) < 2:
        raise ModelwrightError(
            f"the target '{scan.name}' has {len(names)} different values: there is nothing to tell apart",
            where="target",
            remedy="choose another target, or more rows",
        )
    return Classes(scan.name, names)


def _kind(scan: ColumnScan) -> Kind:
    if scan.mixed:
        text, where = scan.first_text or ("", "")
        raise ModelwrightError(
            f"the target '{scan.name}' holds numbers, and '{text}'",
            where=where,
            remedy="mend the row, or say that they are classes: kind: classification",
        )
    if scan.first_text is not None:
        return "classification"
    return "classification" if scan.whole and len(scan.levels) <= MOST_CLASSES_BY_ITSELF else "regression"


def _quantity(scan: ColumnScan) -> Quantity:
    if scan.first_text is not None:
        text, where = scan.first_text
        raise ModelwrightError(
            f"the target '{scan.name}' is to be a number, and is '{text}'",
            where=where,
            remedy="mend the row, or set kind: classification",
        )
    if scan.widths.keys() - {1}:
        raise _lists(scan)
    return Quantity(scan.name)


def _names(scan: ColumnScan) -> tuple[object, ...]:
    numbers = scan.first_text is None and any(text.lower() not in MISSING for text in scan.levels)
    levels = [text for text in scan.levels if not (numbers and text.strip().lower() in MISSING)]
    return class_names(levels, numbers and all(map(_is_number, levels)))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _category(scan: ColumnScan, coding: Coding, threshold: float, place: str) -> Category:
    levels = sorted(text for text, lot in scan.levels.items() if lot >= threshold)
    if scan.widths.keys() - {1}:
        raise _lists(scan)
    if not levels:
        raise ModelwrightError(
            f"column '{scan.name}' holds no value in the training rows", where=place, remedy="leave it out of features"
        )
    most = MOST_ONE_HOT if coding == "one-hot" else MOST_LEVELS
    if len(levels) > most:
        raise ModelwrightError(
            f"column '{scan.name}' holds over {most} different texts, such as '{levels[0]}'",
            where=(scan.first_text or ("", place))[1],
            remedy="leave it out of features" + ("" if coding == "codes" else ", or set categories: codes"),
        )
    return Category(scan.name, tuple(levels), coding)


def _lists(scan: ColumnScan) -> ModelwrightError:
    width = max(scan.widths)
    return ModelwrightError(
        f"column '{scan.name}' holds lists of {width} values where one is expected",
        where=scan.widths[width],
        remedy="choose another column",
    )
