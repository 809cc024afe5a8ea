"""A run's held-out data as the judge of files: by the same objective and metrics that judged its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelwright.app.evaluate import MICRO_BATCH
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.data import Dataset
from modelwright.export.artefact import export
from modelwright.export.judge import HeldOut, differences
from modelwright.models.source import load_weights
from modelwright.runs import Run
from modelwright.training.training import Training


def held_out(training: Training, run: Run, data: Dataset | None = None) -> HeldOut:
    """What judges files of a run: its held-out data, or other ``data`` of the same kind.

    Raises:
        ModelwrightError: nothing is held out.
    """
    judged = data if data is not None else training.data.held_out
    if judged is None:
        raise ModelwrightError("nothing is held out", where=str(run.recipe_path), remedy="set data.held_out")
    plan = run.plan()
    return HeldOut(
        objective=training.objective,
        data=judged,
        metrics=training.metrics,
        micro_batch=plan.micro_batch if plan else MICRO_BATCH,
    )


def judged_export(
    run: Run, weights: Path, path: Path, form: str, facts: Mapping[str, str], *, force: bool, trust: bool
) -> dict[str, Any]:
    """Write a run's model with these weights in a format that computes, judged by the run's held-out data.

    Returns:
        ``bytes``, ``distance``, and ``reported``, ``found`` and ``samples`` where something is held out.

    Raises:
        ModelwrightError: the model cannot be written so, or the file does not compute what the model does.
    """
    training, _ = open_trained(run, trust=trust, scored=True)
    load_weights(training.model, weights)
    if training.data.held_out is None:
        judge = held_out(training, run, training.data.train)
        what = "nothing is held out: the file's outputs are compared with the model's, its metrics are not"
        emit("export-unscored", what, level="warning")
        call = judge.call(training.model)
        done = export(training.model, path, call, form=form, facts=facts, force=force)
        return {"bytes": done.bytes, "distance": done.distance}
    judge = held_out(training, run)
    done = export(training.model, path, form=form, facts=facts, held_out=judge, force=force)
    _compare_with_run(run, facts, done.reported, len(judge.data))
    scores = {"reported": dict(done.reported), "found": dict(done.found), "samples": len(judge.data)}
    return {"bytes": done.bytes, "distance": done.distance, **scores}


def _compare_with_run(run: Run, facts: Mapping[str, str], reported: Mapping[str, float], samples: int) -> None:
    """What the run's record says it scored may be of another precision, machine or state of the data."""
    if facts.get("weights") != "final":
        return
    recorded = {
        name: value
        for name, value in run.record.summary.get("held_out", {}).items()
        if name in reported and isinstance(value, float)
    }
    if wrong := differences(recorded, reported, samples):
        told = ", ".join(f"{each.name} {each.found:.6g} (not {each.reported:.6g})" for each in wrong)
        plan = run.plan()
        what = f"in float32 here the model scores {told}; the run was recorded in {plan.precision if plan else 'fp32'}"
        emit("score-differs", what, level="warning", recorded=recorded, threads=torch.get_num_threads())
