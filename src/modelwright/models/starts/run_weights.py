"""The newest weights of a run, by its files alone."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run


def newest_weights(path: Path) -> tuple[Path, int]:
    """The safetensors file with a run's newest weights, and the step they are of.

    Raises:
        ModelwrightError: no such run, or it has saved nothing yet.
    """
    run = _opened(path)
    final, final_step = run.artifacts / "model.safetensors", int(run.record.summary.get("steps", 0))
    found = {int(folder.name.removeprefix("step-")): folder for folder in run.checkpoints.glob("step-*")}
    step = max(found, default=-1)
    if run.status() in ("finished", "stopped") and final.is_file() and final_step >= step:
        return final, final_step
    if step < 0:
        raise ModelwrightError(
            f"the run '{run.name}' has saved no weights yet",
            where=str(run.path),
            remedy=f"let it train: modelwright resume {run.path}",
        )
    shown = found[step] / "shown.safetensors"  # averages, where training keeps them
    return shown if shown.is_file() else found[step] / "model.safetensors", step


def _opened(path: Path) -> Run:
    try:
        return Run.open(path)
    except ModelwrightError as error:
        raise ModelwrightError(
            f"there is nothing to start from: {error.what}",
            where="start.run",
            remedy=f"train it first, with --name {path.name}; or name another: start.run=runs/NAME",
        ) from error
