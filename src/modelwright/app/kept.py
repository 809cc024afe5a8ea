"""The checkpoints that a run has kept, as a user names them."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run
from modelwright.runs.weights import find_damage, list_checkpoints, step_of
from modelwright.training.checkpoints import find_newest


def kept_checkpoint(run: Run, step: int | None, option: str = "--step") -> Path:
    """The whole checkpoint of that step; the newest one where it is ``None``.

    Raises:
        ModelwrightError: there is none, or it is damaged; names those that are kept.
    """
    path = find_newest(run.checkpoints) if step is None else run.checkpoints / f"step-{step:08d}"
    if path is None:
        raise ModelwrightError(
            f"the run '{run.name}' has no whole checkpoint",
            where=str(run.checkpoints),
            remedy=f"let it train: modelwright resume {run.path}",
        )
    if not path.is_dir():
        raise ModelwrightError(
            f"the run '{run.name}' keeps no checkpoint of step {step}",
            where=str(run.checkpoints),
            remedy=_kept(run, option),
        )
    if step is not None and (damage := find_damage(path)):  # the newest was compared when it was found
        raise ModelwrightError(f"the checkpoint is damaged: {damage}", where=str(path), remedy=_kept(run, option, path))
    return path


def _kept(run: Run, option: str, but: Path | None = None) -> str:
    steps = sorted(step_of(path.name) for path in list_checkpoints(run.checkpoints) if path != but)
    if not steps:
        return f"let it train: modelwright resume {run.path}"
    return f"take one of those that are kept: {option} {', '.join(map(str, steps))}; saving.keep says how many"
