"""The verb ``evaluate`` for an exported file: the same metrics on the same data, computed in the file's runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from modelwright.app.failing import failing
from modelwright.app.judging import held_out
from modelwright.app.places import data_cache
from modelwright.app.session import logged
from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.events import emit
from modelwright.base.files import file_hash
from modelwright.data import Dataset
from modelwright.export.file_module import FileModule
from modelwright.export.judge import HeldOut, differences
from modelwright.export.runtimes import computed, runtime_of
from modelwright.models.source import load_weights
from modelwright.recipe import load_recipe
from modelwright.recipe.build import open_data
from modelwright.runs import MetricsWriter, Run
from modelwright.runs.directory import names_in

_WEIGHTS = ".safetensors"


def is_file(name: str) -> bool:
    """Whether the name is that of an exported file rather than of a run."""
    path = Path(name)
    return path.is_file() and (computed(path) or path.suffix == _WEIGHTS)


def evaluate_file(
    path: Path, *, folder: Path, of: str | None = None, data: str | None = None, trust: bool = False
) -> tuple[Run, dict[str, Any]]:
    """Score a file that was exported from a run, by that run's objective and metrics.

    Args:
        path: ``.onnx``, ``.pt2`` or ``.pte``, which are computed in their runtime, or ``.safetensors``, loaded into the
            run's model.
        folder: where runs lie.
        of: the run that the file was exported from; ``None``: the one whose artifact it is, or the one in ``folder``
            that the file names.
        data: a recipe whose held-out data to score on, instead of the run's.
        trust: run foreign code that a run from elsewhere names, and read a ``.pt2`` from elsewhere.

    Returns:
        The run that records it, and loss and metrics by name; ``file`` has the path, the SHA-256 and what was
        ``reported`` when it was exported.

    Raises:
        ModelwrightError: no file that was exported, its run is not found, nothing held out.
    """
    facts = _facts(path)
    parent = _run_of(path, facts, folder, of)
    training, _ = open_trained(parent, trust=trust, scored=True)
    judge = held_out(training, parent, _other_data(data))
    module = _module(path, training.model, trust)
    run = Run.create(parent.path.parent, None, "evaluate", parent=parent)
    with failing(run), logged(run):
        run.write_recipe(parent.recipe())
        run.update(status="running")
        run.write_environment()
        scores: dict[str, Any] = dict(judge.score(module))
        with MetricsWriter(run.metrics_path) as writer:
            writer.write({"kind": "evaluation", "step": int(facts["step"]), **scores, "part": "held-out"})
        scores["file"] = {"path": str(path), "sha256": file_hash(path), **_compared(facts, scores, judge, data)}
        run.update(status="finished", summary=scores)
    return run, scores


def _facts(path: Path) -> dict[str, str]:
    if computed(path):
        facts = runtime_of(path).facts(path)
    else:
        try:
            with safe_open(path, framework="pt") as file:
                facts = dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ModelwrightError(f"the file is not safetensors: {error}", where=str(path)) from error
    if not facts.get("step", "").isdigit():
        raise ModelwrightError(
            "the file does not say which run it was exported from",
            where=str(path),
            remedy="export it with  modelwright export RUN",
        )
    return facts


def _run_of(path: Path, facts: dict[str, str], folder: Path, of: str | None) -> Run:
    """The run that the file was exported from; one that is named must be it."""
    if of is not None:
        return _named(of, path, facts, folder)
    for place in (path.absolute().parent.parent, *(folder / name for name in _likely(folder, facts))):
        if (place / "run.json").is_file() and (run := Run(place)).record.id == facts.get("run_id"):
            return run
    raise ModelwrightError(
        f"the run '{facts.get('run', '')}', which the file was exported from, is not in {folder}",
        where=str(path),
        remedy=f"say where it is: --run PATH, or --folder. {nearest(facts.get('run', ''), names_in(folder))}".strip(),
    )


def _named(of: str, path: Path, facts: dict[str, str], folder: Path) -> Run:
    run = Run.open(of, folder)
    if run.record.id != facts.get("run_id"):
        raise ModelwrightError(
            f"the file was exported from the run '{facts.get('run', '')}' ({facts.get('run_id', 'no id')}), "
            f"not from '{run.name}' ({run.record.id})",
            where=str(path),
            remedy="name that run with --run, or leave it out; to score on other data, add --data RECIPE",
        )
    return run


def _likely(folder: Path, facts: dict[str, str]) -> list[str]:
    """The run's name first, as it may have been renamed."""
    names = names_in(folder)
    return sorted(names, key=lambda name: name != facts.get("run"))


def _other_data(recipe: str | None) -> Dataset | None:
    if recipe is None:
        return None
    _, splits = open_data(load_recipe(recipe), data_cache())
    if splits.held_out is None:
        raise ModelwrightError("nothing is held out", where=recipe, remedy="set data.held_out")
    return splits.held_out


def _module(path: Path, model: nn.Module, trust: bool) -> nn.Module:
    if computed(path):
        return FileModule(runtime_of(path).open(path, trust=trust))
    load_weights(model, path)
    return model


def _compared(facts: dict[str, str], scores: dict[str, Any], judge: HeldOut, data: str | None) -> dict[str, Any]:
    """What was reported at the export, and whether it is found again; on other data it need not be."""
    reported = json.loads(facts.get("reported", "{}"))
    if not reported:
        return {}
    if data is not None:
        return {"reported": reported}
    wrong = differences(reported, scores, len(judge.data))
    if wrong:
        what = f"the file does not score here what was reported when it was exported: {'; '.join(map(str, wrong))}"
        emit("file-differs", what, level="warning")
    return {"reported": reported, "same": not wrong}
