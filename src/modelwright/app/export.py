"""The verb ``export``: a kept checkpoint as a file for others.

Formats that keep weights need neither data nor code. Those that compute are judged on the held-out data first.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from torch import nn

from modelwright.app.assemble import assemble
from modelwright.app.display import Whole, speaker, table
from modelwright.app.judging import judged_export
from modelwright.app.kept import kept_checkpoint
from modelwright.app.trust import check_trust
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import listening
from modelwright.base.files import make_folder, write_json
from modelwright.base.units import bytes_text
from modelwright.export import FORMATS, ExportFormat
from modelwright.export.artefact import FORMS
from modelwright.export.call import Call
from modelwright.export.runtimes import computed
from modelwright.export.target import format_of
from modelwright.models.source import load_weights, read_weights
from modelwright.runs import Run
from modelwright.runs.environment import package_version
from modelwright.runs.weights import best_checkpoint, newest_weights, step_of, weights_of

_STEP = re.compile(r"(?:step-)?(\d+)")
_LIVE = "model.safetensors"
_ENDINGS = {form: ending for ending, form in FORMS.items()}


def export(
    name: str,
    *,
    folder: Path,
    console: Console,
    checkpoint: str = "newest",
    form: str | None = None,
    target: str | None = None,
    out: Path | None = None,
    raw: bool = False,
    force: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write the weights of a run, or the model with them.

    Args:
        name: of the run, or its path.
        folder: where runs lie.
        console: shows what is being done, and the events that a person should know of.
        checkpoint: ``newest``, ``best`` (by the held-out score on the way), or the step of a kept one.
        form: a name of :data:`modelwright.export.FORMATS`; ``None``: as ``target`` or
            ``out`` ask for, else ``safetensors``.
        target: a name of :data:`modelwright.export.target.TARGETS`: the fastest way to compute the file is measured.
        out: where to; among the run's artifacts where it is ``None``.
        raw: the weights in training, where those to be scored are averages.
        force: replace what is there.
        trust: run foreign code that a run from elsewhere names; formats that need the module build it.

    Returns:
        ``run``, ``step``, ``weights`` (which ones), ``format``, ``out``, ``bytes``; of a format that computes also
        ``reported`` and ``found``, the scores of the model and of the file, ``samples``, ``distance``, ``sha256``, the
        ``choice`` for a target, and ``receipt``: a file of the run that holds all this.

    Raises:
        ModelwrightError: no such run or checkpoint, something is there already, the format does not fit the model, or
            what was written does not compute what the model does.
    """
    run = Run.open(name, folder)
    form = _form(form, target, out)
    write: ExportFormat = FORMATS.resolve(form)
    found = _found(run, checkpoint, raw)
    path = out or _place(run, found, form)
    facts = _facts(run, found)
    told = {"run": str(run.path), "step": found.step, "weights": found.kind, "format": form, "out": str(path)}
    with listening(speaker(console)):
        if computed(path):
            _refuse_taken(path, force)
            asked: dict[str, Any] = {"target": target, "force": force, "trust": trust, "console": console}
            return _noted(run, path, told | judged_export(run, found.path, path, form, facts, **asked))
        _make_room(path, force)
        write(path, read_weights(found.path), lambda: _model(run, found.path, trust), facts, _not_called)
    return told | {"bytes": _size(path)}


def _form(form: str | None, target: str | None, out: Path | None) -> str:
    by_name = FORMS.get(out.suffix) if out is not None else None
    if target is None:
        return form or by_name or "safetensors"
    wanted = format_of(target)
    for option, other in (("--format", form), ("--out", by_name)):
        if other not in (None, wanted):
            raise ModelwrightError(
                f"the target '{target}' computes {wanted}, not {other}", where=option, remedy="leave one of them out"
            )
    if out is not None and by_name is None:
        raise ModelwrightError(
            f"the target '{target}' computes files that end in {_ENDINGS[wanted]}", where="--out", remedy="name it so"
        )
    return wanted


def _noted(run: Run, path: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The receipt, in the run wherever the file lies."""
    receipt = run.artifacts / f"{path.name}.json"
    told = {**told, "receipt": str(receipt)}
    write_json(receipt, {**told, "threads": torch.get_num_threads(), "versions": _versions()})
    return told


def _versions() -> dict[str, str]:
    found = {name: package_version(name) for name in ("modelwright", "torch", "onnxruntime", "openvino")}
    return {name: version for name, version in found.items() if version}


def exported(facts: dict[str, Any]) -> RenderableType:
    """An export as a table."""
    rows = {"weights": f"of step {facts['step']}, {facts['weights']}", "format": facts["format"]}
    rows |= {"out": Whole(facts["out"]), "size": bytes_text(facts["bytes"])}
    return table("What was exported", {**rows, **_scores(facts), **_choice(facts.get("choice"))})


def _choice(choice: dict[str, Any] | None) -> dict[str, str]:
    """How to compute the file, and how fast that is."""
    if choice is None:
        return {}
    chosen, baseline = (
        f"{each['runtime']}, {each['precision']}, threads {each['threads']}"
        for each in (choice["chosen"], choice["baseline"])
    )
    rows = {f"fastest for {choice['target']}": chosen}
    times = choice["times_as_fast"].items()
    rows |= {f"batch of {batch}": f"{speed:.2f} times as fast as {baseline}" for batch, speed in times}
    return rows | {f"not {name}": Whole(reason) for name, reason in choice["refused"].items()}


def _scores(facts: dict[str, Any]) -> dict[str, str]:
    """Each score of the model and of the file."""
    reported, found = facts.get("reported", {}), facts.get("found", {})
    rows = {name: f"{reported[name]:.6g} of the model, {found[name]:.6g} of the file" for name in reported}
    return rows | ({"judged on": f"{facts['samples']} held-out samples"} if rows else {})


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Weights on the disk.

    Attributes:
        path: the safetensors file.
        step: they are of.
        kind: ``final``, ``averaged`` or ``in training``.
    """

    path: Path
    step: int
    kind: str


def _found(run: Run, checkpoint: str, raw: bool) -> _Found:
    if checkpoint == "newest" and not raw:
        path, step = newest_weights(run)
        return _Found(path=path, step=step, kind="final" if path.parent == run.artifacts else _kind(path))
    chosen = kept_checkpoint(run, _step(run, checkpoint), "--checkpoint")
    path = chosen / _LIVE if raw else weights_of(chosen)
    return _Found(path=path, step=step_of(chosen.name), kind="in training" if raw else _kind(path))


def _kind(path: Path) -> str:
    return "in training" if path.name == _LIVE and path.parent.name.startswith("step-") else "averaged"


def _step(run: Run, checkpoint: str) -> int | None:
    if checkpoint == "newest":
        return None
    if checkpoint == "best":
        return _best_step(run)
    if match := _STEP.fullmatch(checkpoint):
        return int(match[1])
    raise ModelwrightError(
        f"'{checkpoint}' is no checkpoint", where="--checkpoint", remedy="write newest, best, or a step such as 500"
    )


def _best_step(run: Run) -> int:
    best = best_checkpoint(run.checkpoints)
    if best is None:
        raise ModelwrightError(
            f"of the run '{run.name}' no checkpoint is told to be the best",
            where="--checkpoint",
            remedy="take newest, or a step; scores on the way tell the best: evaluation.every=N",
        )
    return step_of(best.name)


def _place(run: Run, found: _Found, form: str) -> Path:
    raw = "-raw" if found.kind == "in training" and found.path.parent.joinpath("shown").is_dir() else ""
    stem = "model" if form in _ENDINGS else form.replace(":", "-")
    return run.artifacts / f"{stem}-step-{found.step}{raw}{_ENDINGS.get(form, '')}"


def _not_called() -> Call:
    raise ModelwrightError(
        "the format computes, and no runtime is known for files that end so",
        where="--out",
        remedy=f"end the name in one of {', '.join(FORMS)}",
    )


def _refuse_taken(path: Path, force: bool) -> None:
    if path.is_dir() or (path.exists() and not force):
        raise ModelwrightError(
            "something is there already", where=str(path), remedy="choose another place with --out, or add --force"
        )


def _make_room(path: Path, force: bool) -> None:
    make_folder(path.parent)
    if not path.exists():
        return
    if not force:
        _refuse_taken(path, force)
    if path.is_dir():
        _check_export(path)
        shutil.rmtree(path)


def _check_export(folder: Path) -> None:
    """Whole folders are not replaced unseen: only one that looks like what this verb writes."""
    if not (folder / "config.json").is_file() or any(entry.is_dir() for entry in folder.iterdir()):
        raise ModelwrightError(
            "this folder is no earlier export, so it is not replaced", where=str(folder), remedy="choose another --out"
        )


def _facts(run: Run, found: _Found) -> dict[str, str]:
    recipe = run.recipe()
    return {
        "modelwright": package_version("modelwright"),
        "run": run.name,
        "run_id": run.record.id,
        "step": str(found.step),
        "weights": found.kind,
        "recipe_sha256": hashlib.sha256(recipe.encode()).hexdigest() if recipe else "",
    }


def _model(run: Run, weights: Path, trust: bool) -> nn.Module:
    check_trust(run, trust)
    model = assemble(run, with_data=False, begin=False).model
    load_weights(model, weights)
    return model


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
