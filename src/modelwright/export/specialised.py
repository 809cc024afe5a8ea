"""Where a model's code fixed a size, read from what torch.export says of its work."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from types import TracebackType

_LOGGER = "torch.fx.experimental.symbolic_shapes"
_MADE = re.compile(r"create_symbol (\w+) = \d+ for L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_FIXED = re.compile(r"eval Eq\((\w+), (\d+)\) .*?\(([^()\s]+:\d+) in (\w+)\)")


class Specialised(logging.Handler):
    """Inside the block, notes which line of code compared a size of an input with a number.

    What torch logs is not promised to stay as it is: what is not understood is left out.

    Args:
        names: of the inputs, in their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(logging.INFO)
        self._names = names
        self._symbols: dict[tuple[str, int], str] = {}
        self._places: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line."""
        line = record.getMessage()
        if (made := _MADE.search(line)) and int(made[2]) < len(self._names):
            self._symbols[self._names[int(made[2])], int(made[3])] = made[1]
        elif fixed := _FIXED.search(line):
            self._places.setdefault(fixed[1], f"{'/'.join(fixed[3].split('/')[-2:])} in {fixed[4]}")

    def reason(self, name: str, dim: int) -> str:
        """Why a dim of an input has a fixed size; empty where that is not known."""
        symbol = self._symbols.get((name, dim), "")
        return f"fixed by {self._places[symbol]}" if symbol in self._places else ""

    def __enter__(self) -> None:
        logger = logging.getLogger(_LOGGER)
        self._before = logger.level, logger.propagate, logger.handlers[:]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [self]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger(_LOGGER)
        logger.setLevel(self._before[0])
        logger.propagate = self._before[1]
        logger.handlers = self._before[2]
