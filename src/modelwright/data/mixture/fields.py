"""Fields of batches: what several sources must have in common to be read as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelwright.base.errors import ModelwrightError

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch


def check_fields(batches: Mapping[str, Batch]) -> None:
    """Refuse batches, by name of their source, whose fields differ in name, type or shape of a sample.

    Raises:
        ModelwrightError: names the sources, the field and what differs.
    """
    first, *others = batches
    for other in others:
        _check_pair((first, batches[first]), (other, batches[other]))


def _check_pair(one: tuple[str, Batch], two: tuple[str, Batch]) -> None:
    (first, batch), (other, theirs) = one, two
    if lacking := sorted(batch.keys() ^ theirs.keys()):
        has, lacks = (first, other) if lacking[0] in batch else (other, first)
        raise _unlike(f"'{has}' has the field '{lacking[0]}' and '{lacks}' has not")
    for field, rows in batch.items():
        if rows.dtype != theirs[field].dtype or rows.shape[1:] != theirs[field].shape[1:]:
            raise _unlike(f"'{field}' is {_kind(rows)} in '{first}' and {_kind(theirs[field])} in '{other}'")


def _kind(rows: Tensor) -> str:
    return f"{str(rows.dtype).removeprefix('torch.')} {list(rows.shape[1:])}"


def _unlike(what: str) -> ModelwrightError:
    return ModelwrightError(
        f"sources of a mixture must give samples of one kind: {what}",
        where="sources",
        remedy="give them the same settings, such as context, size or documents",
    )
