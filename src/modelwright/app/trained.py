"""A trained run, opened again: model with its weights, data, objective."""

from __future__ import annotations

from dataclasses import replace

from modelwright.app.assemble import assemble
from modelwright.app.trust import check_trust
from modelwright.base.files import read_json
from modelwright.models.attention import attention_kernels, set_attention
from modelwright.models.source import load_weights
from modelwright.runs import Run
from modelwright.runs.weights import list_checkpoints, newest_weights
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
    newest = next(iter(list_checkpoints(run.checkpoints)), None)
    if reference is None or newest is None:
        return
    if (noted := read_json(newest / "state.json").get("parts", {}).get("reference")) is not None:
        reference.load(noted)
