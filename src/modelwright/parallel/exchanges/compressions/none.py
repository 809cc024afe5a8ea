"""No compression: gradients travel as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modelwright.base.group import Work
from modelwright.parallel import Channel, Reduction
from modelwright.parallel.exchanges.contents import Contents


@dataclass(frozen=True, kw_only=True)
class NoCompression:
    """Whole gradients."""

    exact: ClassVar[bool] = True

    def channel(self, contents: Contents) -> Channel:
        """The way of one bucket."""
        return _Whole(contents)


class _Whole:
    def __init__(self, contents: Contents) -> None:
        self._count = len(contents.shapes)

    def sum(self, flat: Tensor, reduction: Reduction, number: int) -> Iterator[Work]:
        yield from reduction.sum(flat, number)

    def keep(self, masked: Tensor | bool) -> None:
        pass

    def state(self) -> list[dict[str, Tensor]]:
        return [{} for _ in range(self._count)]

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        pass
