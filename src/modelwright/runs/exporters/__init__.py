"""Exporters: a run's directory, told to another tool. What lies in the run stays the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from modelwright.base.choice import Family
from modelwright.runs.compare import flatten, parse_recipe
from modelwright.runs.directory import Run
from modelwright.runs.metrics import Row, read_metrics
from modelwright.runs.plain import number

EXPORTERS = Family(
    "exporter",
    {
        "tensorboard": "modelwright.runs.exporters.tensorboard:export",
        "mlflow": "modelwright.runs.exporters.mlflow:export",
    },
)
_NO_METRIC = ("kind", "step", "part", "time", "seconds", "samples", "tokens")
_PREFIX = {"step": "train", "evaluation": "held_out", "gradients": ""}


class Exporter(Protocol):
    """Tells one run to another tool; told again, it replaces what it told before."""

    def __call__(self, run: Run, out: str | None) -> Exported:
        """Export ``run`` to the folder or address ``out``, or to the tool's usual place."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was told.

    Attributes:
        place: where it is now.
        points: numbers told.
        look: the command that shows it.
        replaced: whether an earlier export of this run was taken away first.
    """

    place: str
    points: int
    look: str
    replaced: bool = False


@dataclass(frozen=True)
class Point:
    """One number of one metric.

    Attributes:
        name: such as ``train/loss`` or ``held_out/accuracy``.
        value: as it was; NaN and infinities too.
        step: after which step.
        time: when, in seconds since 1970; where the row does not tell, from the seconds of training so far.
    """

    name: str
    value: float
    step: int
    time: float


def points(run: Run) -> Iterator[Point]:
    """Every number of the run's metrics by step, in order of writing."""
    begun, seconds = _begun(run), 0.0
    for row in read_metrics(run.metrics_path):
        seconds = float(row.get("seconds", seconds))
        for name, value in row.items():
            if name not in _NO_METRIC and isinstance(value, (bool, int, float)):
                yield Point(_named(row, name), float(value), int(row["step"]), float(row.get("time", begun + seconds)))


def settings(run: Run) -> dict[str, Any]:
    """The recipe's values by dotted name."""
    recipe = parse_recipe(run)
    return dict(flatten(recipe)) if isinstance(recipe, dict) else {}


def results(run: Run) -> dict[str, float]:
    """The numbers of the run's summary by dotted name."""
    summary = {name: number(value) for name, value in flatten(run.record.summary).items()}
    return {name: float(value) for name, value in summary.items() if isinstance(value, (int, float))}


def artefacts(run: Run) -> list[Path]:
    """The files that tell what the run was and made: no checkpoints, whose moments nobody wants to see."""
    single = [run.recipe_path, run.plan_path, run.environment_path, run.report_path, run.events_path]
    folders = [path for name in ("artifacts", "diagnosis", "profile") for path in sorted((run.path / name).rglob("*"))]
    return [path for path in [*single, *folders] if path.is_file()]


def _named(row: Row, name: str) -> str:
    prefix = _PREFIX.get(str(row.get("kind", "")), str(row.get("kind", "")))
    if row.get("part") == "held-out-part":
        prefix = f"{prefix}_part"
    return f"{prefix}/{name}" if prefix else name


def _begun(run: Run) -> float:
    return datetime.fromisoformat(run.record.created).timestamp()
