"""Events: everything that was skipped, refused, replaced or changed is said, once, with its place.

Code anywhere calls :func:`emit`; whoever runs it decides with :func:`listening` where events go (a run's
``events.jsonl``, the screen). With nobody listening they go to Python's ``logging``, never nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Listener = Callable[["Event"], None]

_listeners: list[Listener] = []
_logger = logging.getLogger("modelwright")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something worth telling.

    Attributes:
        kind: short machine-readable name, such as ``step-masked``.
        message: one sentence for a person.
        level: ``info``, ``warning`` or ``error``.
        details: JSON-ready values (step, rank, names).
    """

    kind: str
    message: str
    level: str = "info"
    details: dict[str, object] = field(default_factory=dict)


def emit(kind: str, message: str, *, level: str = "info", **details: object) -> None:
    """Tell every listener of an event."""
    event = Event(kind=kind, message=message, level=level, details=details)
    if not _listeners:
        _logger.log(logging.getLevelName(level.upper()), "%s: %s", kind, message)
    for listener in list(_listeners):
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the events emitted inside the block, in any thread of this process, to ``listener`` too."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
