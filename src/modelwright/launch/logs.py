"""What a rank leaves in the logs folder: its output, and the exception it died of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json


def report_path(logs: Path, rank: int) -> Path:
    """Where a rank leaves the exception it died of."""
    return logs / f"rank-{rank}.error.json"


def log_path(logs: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return logs / f"rank-{rank}.txt"


def read_report(logs: Path, rank: int) -> dict[str, Any] | None:
    """The exception a rank died of, if it left one."""
    with suppress(ModelwrightError):
        report: dict[str, Any] = read_json(report_path(logs, rank))
        return report
    return None
