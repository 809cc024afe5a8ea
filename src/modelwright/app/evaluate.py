"""The verb ``evaluate``: a run's weights on its held-out data, recorded as a run of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from modelwright.app.compressors import bits_per_byte
from modelwright.app.display import table
from modelwright.app.failing import failing
from modelwright.app.session import logged
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.base.world import world
from modelwright.parallel.program import LocalProgram
from modelwright.runs import MetricsWriter, Run
from modelwright.training.evaluation import evaluate as score
from modelwright.training.training import Training

MICRO_BATCH = 32


def evaluate(name: str, *, folder: Path, trust: bool = False) -> tuple[Run, dict[str, Any]]:
    """Score the whole of the held-out data.

    Returns:
        The run that records it, and loss and metrics by name; for language models also ``yardsticks``, the bits
        per byte of general compressors on the same documents.

    Raises:
        ModelwrightError: no such run, no weights yet, nothing held out.
    """
    parent = Run.open(name, folder)
    training, step = open_trained(parent, trust=trust, scored=True)
    run = Run.create(parent.path.parent, None, "evaluate", parent=parent)
    with failing(run), logged(run):
        run.write_recipe(parent.recipe())
        run.update(status="running")
        run.write_environment()
        scores: dict[str, Any] = dict(_scores(training, parent))
        with MetricsWriter(run.metrics_path) as writer:
            writer.write({"kind": "evaluation", "step": step, **scores, "part": "held-out"})
        if yardsticks := yardsticks_of(training):
            scores["yardsticks"] = yardsticks
        run.update(status="finished", summary=scores)
    return run, scores


def yardsticks_of(training: Training) -> dict[str, float]:
    """Bits per byte of general compressors on the held-out documents; empty where there are none."""
    if training.data.documents is None or "bits-per-byte" not in training.metrics:
        return {}
    return bits_per_byte(training.data.documents)


def _scores(training: Training, parent: Run) -> dict[str, float]:
    if training.data.held_out is None:
        raise ModelwrightError("nothing is held out", where=str(parent.recipe_path), remedy="set data.held_out")
    plan = parent.plan()
    with _threads(plan), world() as mesh:
        program = LocalProgram(
            training.model,
            training.objective,
            device=mesh.device,
            precision=plan.precision if plan else "fp32",
        )
        return score(
            program,
            training.data.held_out,
            training.metrics,
            mesh.world,
            micro_batch=plan.micro_batch if plan else MICRO_BATCH,
        )


@contextmanager
def _threads(plan: Plan | None) -> Iterator[None]:
    """Within the block no more threads than all workers of the plan had together."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, plan.workers * plan.threads) if plan else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluated(run: Run, scores: dict[str, Any]) -> RenderableType:
    """Scores as a table, yardsticks among them, and what was reported of a file."""
    rows = {name: f"{value:.4f}" for name, value in scores.items() if isinstance(value, float)}
    rows |= {f"{name} (bits per byte)": f"{value:.4f}" for name, value in scores.get("yardsticks", {}).items()}
    reported = scores.get("file", {}).get("reported", {})
    rows |= {f"{name} reported at export": f"{value:.4f}" for name, value in reported.items()}
    return table(run.name, rows)
