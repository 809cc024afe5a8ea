"""A run's held-out data as the judge of files: by the same objective and metrics that judged its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from modelwright.app.evaluate import MICRO_BATCH
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import file_hash
from modelwright.data import Dataset
from modelwright.export.artefact import call_by, export
from modelwright.export.judge import HeldOut, differences
from modelwright.export.target import settle
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
    run: Run,
    weights: Path,
    path: Path,
    form: str,
    facts: Mapping[str, str],
    *,
    console: Console,
    target: str | None = None,
    force: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write a run's model with these weights in a format that computes, judged by the run's held-out data.

    Args:
        run: whose model.
        weights: the file of them.
        path: where to.
        form: a name of :data:`~modelwright.export.FORMATS`.
        facts: texts for the file's metadata.
        console: shows what is being done.
        target: a name of :data:`~modelwright.export.target.TARGETS`, on which the fastest way to compute the file is
            chosen by measuring.
        force: replace what is there.
        trust: run foreign code that a run from elsewhere names.

    Returns:
        ``bytes``, ``sha256``, ``distance``; ``reported``, ``found`` and ``samples`` where something is held out; and
        ``choice`` where there is a target.

    Raises:
        ModelwrightError: the model cannot be written so, or the file does not compute what the model does.
    """
    training, _ = open_trained(run, trust=trust, scored=True)
    load_weights(training.model, weights)
    judge, scored = _judge(training, run)
    with console.status("writing the file, and judging it beside the model"):
        if scored:
            done = export(training.model, path, form=form, facts=facts, held_out=judge, force=force)
            _compare_with_run(run, facts, done.reported, len(judge.data))
        else:
            call = call_by(judge, training.model, form)
            done = export(training.model, path, call, form=form, facts=facts, force=force)
    told: dict[str, Any] = {"bytes": done.bytes, "sha256": file_hash(path), "distance": done.distance}
    if scored:
        told |= {"reported": dict(done.reported), "found": dict(done.found), "samples": len(judge.data)}
    if target is not None:
        told["choice"] = _settled(target, path, training.model, judge, done.reported if scored else None, console)
    return told


def _judge(training: Training, run: Run) -> tuple[HeldOut, bool]:
    """The judge, and whether it may score; where it may not, it only says how the model is called."""
    if training.data.held_out is not None:
        return held_out(training, run), True
    what = "nothing is held out: the file's outputs are compared with the model's, its metrics are not"
    emit("export-unscored", what, level="warning")
    return held_out(training, run, training.data.train), False


def _settled(
    target: str, path: Path, model: nn.Module, judge: HeldOut, reported: Mapping[str, float] | None, console: Console
) -> dict[str, Any]:
    with console.status("measuring runtimes, precisions and numbers of threads side by side"):
        found = settle(
            target,
            path,
            model,
            lambda samples: judge.call(model, samples),
            held_out=judge if reported is not None else None,
            reported=reported,
        )
    return found.to_json()


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
