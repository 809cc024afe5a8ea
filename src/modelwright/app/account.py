"""What a training did, where it lies and what to do next: the end of ``train``, ``resume`` and ``demo``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from modelwright.app.display import Whole, steps_text, table
from modelwright.base.units import bytes_text, count_text, seconds_text
from modelwright.runs import Run
from modelwright.runs.compare import parse_recipe
from modelwright.runs.plain import number

_LATE = 1.25  # times the planned seconds; less is within what a plan can know


def account(run: Run) -> dict[str, str]:
    """What is known of a finished or stopped run, as people read it; what is not known has no key.

    Raises:
        ModelwrightError: the run's files are damaged.
    """
    summary = run.record.summary
    found = {
        "model": _model(run, summary),
        "trained": _trained(run, summary),
        "speed": _speed(summary),
        **{f"held-out {_words(name)}": f"{number(score):.4g}" for name, score in _scores(summary).items()},
        "weights": _existing(_weights(run)),
        "report": _existing(run.report_path),
        "next": _next(run),
    }
    return {name: value for name, value in found.items() if value}


def told(run: Run) -> RenderableType:
    """The account as a table."""
    return table("What was done", {name: Whole(value) for name, value in account(run).items()})


def _model(run: Run, summary: Mapping[str, Any]) -> str:
    weights = _weights(run)
    parts = [f"{count_text(summary['parameters'])} parameters"] if "parameters" in summary else []
    return ", ".join([*parts, bytes_text(weights.stat().st_size)] if weights.is_file() else parts)


def _trained(run: Run, summary: Mapping[str, Any]) -> str:
    if "steps" not in summary:
        return ""
    unit = _unit(summary)
    seen = f", {count_text(summary[unit])} {unit}" if unit else ""
    time = f" in {seconds_text(summary['seconds'])}{_late(run, summary['seconds'])}" if "seconds" in summary else ""
    return f"{steps_text(summary['steps'])}{seen}{time}"


def _late(run: Run, seconds: float) -> str:
    plan = run.plan()
    if plan is None or plan.prediction is None:
        return ""
    planned = plan.steps * plan.prediction.step_seconds
    return f" (planned {seconds_text(planned)})" if seconds > _LATE * planned else ""


def _speed(summary: Mapping[str, Any]) -> str:
    unit, seconds = _unit(summary), summary.get("seconds", 0)
    return f"{count_text(summary[unit] / seconds)} {unit}/s" if unit and seconds > 0 else ""


def _unit(summary: Mapping[str, Any]) -> str:
    return next((unit for unit in ("tokens", "samples") if unit in summary), "")


def _scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    scores: dict[str, Any] = summary.get("held_out", {})
    return {name: score for name, score in scores.items() if isinstance(number(score), (int, float))}


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _weights(run: Run) -> Path:
    return run.artifacts / "model.safetensors"


def _existing(path: Path) -> str:
    return str(path) if path.is_file() else ""


def _next(run: Run) -> str:
    """The command to try; a run without a recipe, made from Python, goes on there."""
    recipe = parse_recipe(run)
    if not isinstance(recipe, Mapping):
        return ""
    name = shlex.quote(run.name if run.path.parent == Path("runs") else str(run.path))
    if run.status() != "finished":
        return f"modelwright resume {name}"
    objective = recipe.get("objective")
    used = objective.get("use") if isinstance(objective, Mapping) else objective
    if used == "next-token":
        return f"modelwright generate {name} --prompt 'import os'"
    return f"modelwright evaluate {name}" if run.record.summary.get("held_out") else ""
