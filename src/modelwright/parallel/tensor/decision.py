"""Decision: how each parameter is divided, why others stay whole, and all of it as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelwright.parallel.divided.division import Division

_HEAD = ("parameter", "shape", "held by a rank", "MB a rank", "how")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Parameters that are alike but for numbers in their names.

    Attributes:
        name: with ``*`` for numbers that differ.
        count: how many.
        shape: of the whole.
        local_shape: of a rank's piece.
        bytes: of the pieces of all of them that a rank holds.
        how: how they are divided, such as ``rows: 4 of 8 heads``, or why they are not.
        divided: whether they are.
        uneven: whether they are not, though they could be over another number of ranks.
    """

    name: str
    count: int
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    bytes: int
    how: str
    divided: bool
    uneven: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How a model is divided over the ranks of an axis.

    Attributes:
        axis: of the mesh.
        size: how many ranks there are along it.
        divisions: by each name of the parameters that are divided.
        rows: all parameters, alike ones folded.
        sent: bytes that a rank is estimated to send in a step, forward and backward.
    """

    axis: str
    size: int
    divisions: Mapping[str, Division]
    rows: tuple[Row, ...]
    sent: int

    @property
    def sizes(self) -> dict[str, int]:
        """Of the axis."""
        return {self.axis: self.size}

    @property
    def whole(self) -> tuple[Row, ...]:
        """The parameters that every rank holds whole."""
        return tuple(row for row in self.rows if not row.divided)

    def table(self) -> list[tuple[str, ...]]:
        """A head and a line for each row, as texts."""
        return [_HEAD, *(_line(row) for row in self.rows)]

    def text(self) -> str:
        """The table as plain text."""
        lines = self.table()
        widths = [max(len(line[place]) for line in lines) for place in range(len(_HEAD) - 1)]
        return "\n".join(_aligned(line, widths) for line in lines)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        divisions = {name: str(division) for name, division in self.divisions.items()}
        rows = [asdict(row) | {"shape": list(row.shape), "local_shape": list(row.local_shape)} for row in self.rows]
        return {"axis": self.axis, "size": self.size, "sent": self.sent, "divisions": divisions, "parameters": rows}


def _line(row: Row) -> tuple[str, ...]:
    name = f"{row.name} ({row.count})" if row.count > 1 else row.name
    return name, str(list(row.shape)), str(list(row.local_shape)), f"{row.bytes / 1e6:.3f}", row.how


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]).rstrip()


def folded(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows that are alike but for numbers in their names, joined."""
    together: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        together.setdefault((_pattern(row.name), row.shape, row.local_shape, row.how), []).append(row)
    return tuple(_joined(alike) for alike in together.values())


def _joined(alike: list[Row]) -> Row:
    first = alike[0]
    return Row(
        name=_common(row.name for row in alike),
        count=len(alike),
        shape=first.shape,
        local_shape=first.local_shape,
        bytes=sum(row.bytes for row in alike),
        how=first.how,
        divided=first.divided,
        uneven=first.uneven,
    )


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _common(names: Iterable[str]) -> str:
    columns = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(parts[0] if len(set(parts)) == 1 else "*" for parts in columns)


def local_bytes(division: Division, sizes: Mapping[str, int], itemsize: int) -> int:
    """Of a rank's piece."""
    return math.prod(division.local_shape(sizes)) * itemsize
