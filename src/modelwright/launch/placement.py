"""Placement: where the ranks of a job run, and how they begin."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, get_args

from modelwright.base.errors import ModelwrightError, nearest

Kind = Literal["local"]
Beginning = Literal["fork", "spawn"]

_BEGINNING: Beginning = "fork" if sys.platform.startswith("linux") else "spawn"


@dataclass(frozen=True)
class Placement:
    """Where the ranks of a job run.

    Attributes:
        workers: how many ranks.
        threads: CPU threads of each rank.
        port: TCP port at which the ranks meet; a free one is picked where it is ``None``.
        kind: ``local``, the processes of this machine.
        start: ``fork`` from a warm parent that has imported already; ``spawn`` begins each rank with a fresh
            interpreter, which CUDA needs and which is the only way outside Linux.
        grace: seconds that the other ranks get to leave once one has failed, before they are killed.

    Raises:
        ModelwrightError: a value that cannot be.
    """

    workers: int
    threads: int
    port: int | None = None
    kind: Kind = "local"
    start: Beginning = _BEGINNING
    grace: float = 3.0

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise ModelwrightError(f"{name} must be at least 1, not {getattr(self, name)}", where=name)
        if self.port is not None and not 0 < self.port < 65536:
            raise ModelwrightError(f"{self.port} is not a TCP port", where="port", remedy="1 to 65535")
        if self.grace < 0:
            raise ModelwrightError(f"grace must not be negative, but is {self.grace}", where="grace")
        _listed("kind", self.kind, get_args(Kind))
        _listed("start", self.start, get_args(Beginning))


def _listed(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelwrightError(f"there is no {field} '{value}'", where=field, remedy=nearest(value, known))
