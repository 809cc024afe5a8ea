"""The verbs ``runs`` and ``report``: what there is, one of them, several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from modelwright.app.display import Whole, table
from modelwright.base.units import bytes_text, seconds_text
from modelwright.runs import Run, RunRow, compare, listing, read_events, reindex, remove
from modelwright.runs.compare import flatten
from modelwright.runs.exporters import EXPORTERS, Exported
from modelwright.runs.report import write_report

_ANY_WIDTH = 10_000  # columns
_COLOURS = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "stopped": "yellow",
}


def list_runs(folder: Path) -> list[RunRow]:
    """The runs of a folder, oldest first."""
    return listing(folder)


def listed(rows: Sequence[RunRow]) -> RenderableType:
    """Runs as a table."""
    if not rows:
        return "no runs here yet; make one: modelwright demo"
    made = Table("run", "verb", "status", "created", "steps", "train loss", "held-out", box=None, pad_edge=False)
    for row in rows:
        colour = _COLOURS.get(row.status, "white")
        made.add_row(
            escape(row.name),
            row.verb,
            f"[{colour}]{row.status}[/]",
            row.created.replace("T", " ")[:16],
            str(row.summary.get("steps", "")),
            *_losses(row),
        )
    return _whole(made)


def show(name: str, folder: Path) -> dict[str, Any]:
    """Everything that is known of a run, JSON-ready."""
    run = Run.open(name, folder)
    plan = run.plan()
    return {
        **run.record.to_json(),
        "status": run.status(),
        "path": str(run.path),
        "lineage": _lineage(run),
        "plan": plan.to_json() if plan else None,
        "events": [event.message for event in read_events(run.events_path) if event.level != "info"],
    }


def shown(facts: dict[str, Any]) -> RenderableType:
    """A run as a table."""
    rows = {name: facts[name] for name in ("name", "verb", "status", "created", "ended", "path") if facts[name]}
    rows["path"] = Whole(facts["path"])
    rows |= {
        f"parent{'' if place == 0 else f' {place + 1}'}": _from(each) for place, each in enumerate(facts["lineage"])
    }
    results = {name: _readable(name, value) for name, value in flatten(facts["summary"]).items()}
    rows |= {f"summary.{name}" if name in rows else name: value for name, value in results.items()}
    rows |= {f"error.{name}": value for name, value in (facts["error"] or {}).items() if value}
    rows |= {f"warning {number}": message for number, message in enumerate(facts["events"], start=1)}
    return table(facts["name"], rows)


def _lineage(run: Run) -> list[dict[str, Any]]:
    """What it goes out from, nearest first: name, path, and the step it branched off at."""
    line: list[dict[str, Any]] = []
    for child, parent in pairwise([run, *run.lineage()]):
        step = child.record.parent_step
        line.append({"name": parent.name, "path": str(parent.path), "step": step, "hash": child.record.parent_hash})
    last = Run(Path(line[-1]["path"])) if line else run
    if last.record.parent is not None:  # it is no longer there
        gone, step = str(last.record.parent_path), last.record.parent_step
        line.append({"name": Path(gone).name, "path": None, "step": step, "hash": last.record.parent_hash})
    return line


def _from(parent: dict[str, Any]) -> Whole:
    at = "" if parent["step"] is None else f", checkpoint of step {parent['step']}"
    return Whole(f"{parent['path'] or parent['name'] + ' (no longer there)'}{at}")


def compared(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Where runs differ, JSON-ready."""
    return compare([Run.open(name, folder) for name in names]).to_json()


def remove_run(name: str, folder: Path, *, force: bool) -> Path:
    """Remove a run; a running one only by force."""
    run = Run.open(name, folder)
    remove(run, force=force)
    return run.path


def removal(name: str, folder: Path) -> str:
    """The question to ask before a run is removed."""
    return f"Remove {Run.open(name, folder).path} and all its files?"


def rebuild(folder: Path) -> int:
    """Rebuild the index from the directories; how many runs there are."""
    return len(reindex(folder))


def report(name: str, folder: Path) -> Path:
    """Write a run's report anew."""
    return write_report(Run.open(name, folder))


def export(name: str, folder: Path, to: str, out: str | None) -> dict[str, Any]:
    """Tell another tool of a run: ``tensorboard``, ``mlflow``, or an exporter of one's own by import path."""
    told: Exported = EXPORTERS.resolve(to)(Run.open(name, folder), out)
    return vars(told)


def exported(facts: dict[str, Any]) -> str:
    """An export in a few words."""
    again = "; what was exported of this run before is replaced" if facts["replaced"] else ""
    return f"{facts['points']} numbers in {facts['place']}{again}\nsee them: {facts['look']}"


def print_compared(facts: dict[str, Any], console: Console) -> None:
    """Differences as tables."""
    for title, rows in facts.items():
        if not isinstance(rows, dict) or not rows:
            continue
        made = Table(box=None, pad_edge=False)
        made.add_column("")
        for name in facts["runs"]:
            made.add_column(escape(name))
        for field, values in rows.items():
            made.add_row(escape(field), *(escape(_number(value)) for value in values))
        console.print(Text(title, style="bold"))
        console.print(_whole(made), soft_wrap=True)


def _losses(row: RunRow) -> tuple[str, str]:
    """The loss in training, and the first score on held-out data; an evaluation has only scores."""
    evaluated = row.verb == "evaluate"
    scores = row.summary if evaluated else row.summary.get("held_out", {})
    first = next((f"{name} {_number(value)}" for name, value in scores.items()), "")
    return "" if evaluated else _number(row.summary.get("loss")), escape(first)


def _whole(made: Table) -> Table:
    """The table as wide as what is in it; to be printed with ``soft_wrap``, so that no name is cut."""
    made.width = Console(width=_ANY_WIDTH).measure(made).maximum
    return made


def _readable(name: str, value: object) -> str:
    if isinstance(value, (int, float)) and name.endswith("seconds"):
        return seconds_text(value)
    if isinstance(value, (int, float)) and name.endswith("bytes"):
        return bytes_text(value)
    return f"{value:.6g}" if isinstance(value, float) else str("" if value is None else value)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
