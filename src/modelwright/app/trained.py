"""A trained run, opened again: model with its weights, data, objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelwright.app.assemble import assemble
from modelwright.app.trust import check_trust
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json
from modelwright.models.attention import attention_kernels, set_attention
from modelwright.models.source import load_weights
from modelwright.runs import Run
from modelwright.training import checkpoints
from modelwright.training.prepared import begun
from modelwright.training.reference import Reference, reference_of
from modelwright.training.training import Training


def open_trained(
    run: Run, *, trust: bool = False, with_data: bool = True, scored: bool = False
) -> tuple[Training, int]:
    """What the run trained, with its newest weights and the attention kernel of its plan; and the weights' step.

    ``with_data=False`` leaves the data alone, which may be gone: enough to generate text. ``scored=True`` where the
    objective is to be computed: then what it compares with must be what it was.

    Raises:
        ModelwrightError: the run was made from Python, has saved nothing yet, or needs to be trusted first; or what it
            started from is another now.
    """
    check_trust(run, trust)
    weights, step = newest_weights(run)
    training = assemble(run, with_data=with_data, begin=False)
    objective = begun(training.objective, training.model)
    if scored:
        _check_reference(run, reference_of(training.objective, objective))
    training = replace(training, objective=objective)
    load_weights(training.model, weights)
    plan = run.plan()
    if plan is not None and plan.attention in attention_kernels(training.model):
        set_attention(training.model, plan.attention)  # the kernels round differently
    return training, step


def _check_reference(run: Run, reference: Reference | None) -> None:
    """What the objective compares with is made anew from the start, which may be another by now."""
    newest = next(iter(checkpoints.list_checkpoints(run.checkpoints)), None)
    if reference is None or newest is None:
        return
    if (noted := read_json(newest / "state.json").get("parts", {}).get("reference")) is not None:
        reference.load(noted)


def newest_weights(run: Run) -> tuple[Path, int]:
    """The safetensors file with the run's newest weights, and the step they are of.

    What the run made at its end counts as long as no checkpoint is of a later step.

    Raises:
        ModelwrightError: there is none.
    """
    final, final_step = run.artifacts / "model.safetensors", _final_step(run)
    damages = []
    for path in checkpoints.list_checkpoints(run.checkpoints):
        step = int(path.name.removeprefix("step-"))
        if step <= final_step:
            break
        if (damage := checkpoints.find_damage(path)) is None:
            return checkpoints.weights_of(path), step
        damages.append(f"{path.name}: {damage}")
    if final_step >= 0:
        return final, final_step
    if damages:
        what = f"every checkpoint of the run '{run.name}' is damaged: {'; '.join(damages)}"
        raise ModelwrightError(what, where=str(run.checkpoints), remedy=_train(run))
    raise ModelwrightError(f"the run '{run.name}' has saved no weights yet", where=str(run.path), remedy=_train(run))


def _final_step(run: Run) -> int:
    """The step of the weights that the run made at its end; -1 where it made none."""
    if run.status() not in ("finished", "stopped") or not (run.artifacts / "model.safetensors").exists():
        return -1
    return int(run.record.summary.get("steps", 0))


def _train(run: Run) -> str:
    return f"let it train: modelwright resume {run.path}"
