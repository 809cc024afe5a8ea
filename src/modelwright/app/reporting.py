"""Write the report of a run, or say why there is none."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run
from modelwright.runs.report import write_report


def report_or_say(run: Run, console: Console) -> Path | None:
    """Write ``report.html``; where that fails, for want of plotly for example, say why: the work itself is done."""
    try:
        return write_report(run)
    except ModelwrightError as error:
        reason = "; ".join(part for part in (error.what, error.where, error.remedy) if part)
        console.print(f"[yellow]![/] no report: {escape(reason)}", highlight=False)
        return None
