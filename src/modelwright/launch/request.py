"""What a command asks of its warm parent: begin this rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """A rank to begin: strings only.

    Attributes:
        id: the caller's number for it.
        entry, arguments: what it runs.
        environment: its whole environment.
        folder, path: its working directory and import path.
        log: the file its output is appended to.
        header: the line the log begins with.
        fresh: begin with a fresh interpreter instead of what is imported here.
    """

    id: int
    entry: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    path: list[str]
    log: str
    header: str
    fresh: bool
