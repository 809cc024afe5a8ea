"""Where a value was written: a line of a file, or an override on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in what the user wrote.

    Attributes:
        source: the file as the user named it.
        line: counted from 1.
        column: counted from 1.
        override: the override as it was typed, where the value came from one.
    """

    source: str = ""
    line: int = 0
    column: int = 0
    override: str = ""

    def of(self, path: str) -> str:
        """The place for a message about the field at a dotted path: ``recipe.yaml:12 (optimizer.lr)``."""
        if self.override:
            return f"command line ({self.override})"
        return f"{self} ({path})" if path else str(self)

    def __str__(self) -> str:
        return "command line" if self.override else f"{self.source}:{self.line}"
