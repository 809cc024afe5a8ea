"""Write the report of a run, or say why there is none."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from modelwright.base.errors import MissingExtra
from modelwright.runs import Run
from modelwright.runs.report import write_report


def report_or_say(run: Run, console: Console) -> Path | None:
    """Write ``report.html``; where plots are not installed, say how to get them."""
    try:
        return write_report(run)
    except MissingExtra as error:
        console.print(f"[yellow]![/] no report: {error.what}; {error.remedy}", highlight=False)
        return None
