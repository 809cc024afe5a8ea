"""Runs: the public door. A run is a directory of plain files; its index, figures and report come from them.

The report and figures are apart (``modelwright.runs.report``, ``modelwright.runs.figures``): this door stays
light enough for a command line's help.
"""

from modelwright.runs.compare import Comparison, compare
from modelwright.runs.directory import Run
from modelwright.runs.environment import environment
from modelwright.runs.eventlog import EventLog, LoggedEvent, follow_events, read_events
from modelwright.runs.index import RunRow, listing, reindex
from modelwright.runs.jsonlines import Follower
from modelwright.runs.lock import is_locked, locked
from modelwright.runs.metrics import MetricsWriter, follow, read_metrics, truncate_after
from modelwright.runs.origin import ours, sign
from modelwright.runs.record import Record, Status
from modelwright.runs.removal import remove

__all__ = [
    "Comparison",
    "EventLog",
    "Follower",
    "LoggedEvent",
    "MetricsWriter",
    "Record",
    "Status",
    "Run",
    "RunRow",
    "compare",
    "environment",
    "follow",
    "follow_events",
    "is_locked",
    "listing",
    "locked",
    "ours",
    "read_events",
    "read_metrics",
    "reindex",
    "remove",
    "sign",
    "truncate_after",
]
