"""Events of a run: each is one line of ``events.jsonl`` with its time and rank, written at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event
from modelwright.runs import jsonlines
from modelwright.runs.plain import plain
from modelwright.runs.scrub import scrub, scrub_text

_logger = logging.getLogger("modelwright")


@dataclass(frozen=True, kw_only=True)
class LoggedEvent:
    """An event as it stands in the file.

    Attributes:
        time: when, ISO 8601 in UTC.
        rank: the process that told it.
        kind, message, level, details: as in :class:`modelwright.base.events.Event`.
    """

    time: str
    rank: int
    kind: str
    message: str
    level: str = "info"
    details: dict[str, Any] = field(default_factory=dict)


class EventLog:
    """A listener for :func:`modelwright.base.events.listening` that writes events to a file.

    Several ranks may write to the same file. An event that cannot be written goes to Python's ``logging``:
    telling must not end the training.

    Raises:
        ModelwrightError: the file cannot be opened (from the constructor).
    """

    def __init__(self, path: Path, *, rank: int = 0) -> None:
        self._file = jsonlines.Appender(path)
        self._rank = rank
        if path.stat().st_size > jsonlines.whole_size(path):
            self._file.append(b"\n")  # ends a line torn by a kill, without harm to other writers

    def __call__(self, event: Event) -> None:
        """Write one event."""
        row = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "rank": self._rank,
            "kind": event.kind,
            "level": event.level,
            "message": scrub_text(event.message),
            "details": scrub(plain(event.details)),
        }
        try:
            self._file.append(jsonlines.encode(row))
        except (ModelwrightError, ValueError) as error:
            _logger.error("%s: %s (not written: %s)", event.kind, event.message, error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[LoggedEvent]:
    """All events of a file, oldest first; none where there is no file."""
    return [_event(row) for row in jsonlines.read(path)]


def follow_events(path: Path) -> jsonlines.Follower[LoggedEvent]:
    """A reader of the events that arrive from now on, those already there first."""
    return jsonlines.Follower(path, _event)


def _event(row: dict[str, Any]) -> LoggedEvent:
    details = row.get("details")
    return LoggedEvent(
        time=str(row.get("time", "")),
        rank=int(row.get("rank", 0)),
        kind=str(row.get("kind", "")),
        message=str(row.get("message", "")),
        level=str(row.get("level", "info")),
        details=details if isinstance(details, dict) else {},
    )
