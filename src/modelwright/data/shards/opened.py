"""Shards that are open: a few at a time, the least recently read closed first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from modelwright.data.texts.windows import TokenWindows


@dataclass(frozen=True)
class OpenShard:
    """A shard that is being read.

    Attributes:
        windows: over its tokens.
        tokens: all of them, on disk until they are read.
        close: called when it is no longer read.
    """

    windows: TokenWindows
    tokens: NDArray[Any]
    close: Callable[[], None]


class OpenShards:
    """Shards by number.

    Args:
        opening: opens a shard.
        most: how many stay open.
    """

    def __init__(self, opening: Callable[[int], OpenShard], most: int) -> None:
        self._opening, self._most = opening, most
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    def __call__(self, number: int) -> OpenShard:
        """Shard ``number``.

        Raises:
            ModelwrightError: the shard is damaged, or cannot be reached.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= self._most:
            _, oldest = self._open.popitem(last=False)
            oldest.close()
        self._open[number] = self._opening(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """To another process, which opens its own."""
        return vars(self) | {"_open": OrderedDict()}
