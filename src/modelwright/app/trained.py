"""A trained run, opened again: model with its weights, data, objective."""

from __future__ import annotations

from pathlib import Path

from modelwright.app.assemble import assemble
from modelwright.app.trust import check_trust
from modelwright.base.errors import ModelwrightError
from modelwright.models.source import load_weights
from modelwright.runs import Run
from modelwright.training import checkpoints
from modelwright.training.training import Training


def open_trained(run: Run, *, trust: bool = False) -> Training:
    """What the run trained, with its final weights, or those of its newest whole checkpoint.

    Raises:
        ModelwrightError: the run has saved nothing yet, or needs to be trusted first.
    """
    check_trust(run, trust)
    weights = newest_weights(run)
    training = assemble(run)
    load_weights(training.model, weights)
    return training


def newest_weights(run: Run) -> Path:
    """The safetensors file with the run's newest weights.

    Raises:
        ModelwrightError: there is none.
    """
    final = run.artifacts / "model.safetensors"
    if run.status() in ("finished", "stopped") and final.exists():
        return final
    damages = []
    for path in checkpoints.list_checkpoints(run.checkpoints):
        if (damage := checkpoints.find_damage(path)) is None:
            return path / "model.safetensors"
        damages.append(f"{path.name}: {damage}")
    if damages:
        what = f"every checkpoint of the run '{run.name}' is damaged: {'; '.join(damages)}"
        raise ModelwrightError(what, where=str(run.checkpoints), remedy=_train(run))
    raise ModelwrightError(f"the run '{run.name}' has saved no weights yet", where=str(run.path), remedy=_train(run))


def _train(run: Run) -> str:
    return f"let it train: modelwright resume {run.path}"
