"""Whose checkpoints a store holds: a run of the same name may go on from them, if it is to learn the same.

The store's ``run.json`` has the ids of the runs that were saved there, and digests of what decides what they learn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import read_json
from modelwright.runs.record import read_record
from modelwright.runs.weights import list_checkpoints, step_of
from modelwright.training.checkpoints.storing import CheckpointStore

_NOT_LEARNT = ("name", "budget", "evaluation", "saving", "watch", "plan", "launch")
_PLACES = ("data.cache", "data.cache_bytes", "data.on_damage")
_SOURCES = ("data.folder", "data.root", "data.path", "data.tokenizer.folder")  # their content decides, which is known


def claim(store: CheckpointStore, folder: Path) -> None:
    """Write down that the store is that of the run whose checkpoints lie in ``folder``; of no run, nothing.

    A run without checkpoints of its own takes over those of another of its name: a fresh machine goes on.

    Raises:
        ModelwrightError: the store holds the checkpoints of another run.
    """
    if not (folder.parent / "run.json").is_file():
        return
    run, mark = read_record(folder.parent / "run.json").id, store.mark()
    runs, learnt = mark.get("runs", []), dict(_learnt(folder.parent))
    if run in runs:
        return
    if store.names():
        _check_taken_over(store, folder, mark, learnt)
    store.set_mark({"format": 1, "runs": [*runs, run], "learnt": learnt})


def _check_taken_over(store: CheckpointStore, folder: Path, mark: dict[str, Any], learnt: dict[str, str]) -> None:
    own, theirs = list_checkpoints(folder), mark.get("learnt", {})
    if own and (mark or not _may_be_older(store, own)):
        raise _foreign(store, folder, "and this run has checkpoints of its own")
    if other := [name for name in learnt if theirs.get(name, learnt[name]) != learnt[name]]:
        raise _foreign(store, folder, f"which differs in {', '.join(other[:5])}")
    if not own and not learnt.keys() & theirs.keys():
        message = f"the run goes on from {store.where()}, and nothing tells whether it learnt the same there"
        emit("store-taken-over", message, level="warning", store=store.where())


def _may_be_older(store: CheckpointStore, own: Sequence[Path]) -> bool:
    """Whether what lies in a store without a mark may be this run's own: it is, or is behind it."""
    return any(map(store.has, own)) or step_of(store.names()[0]) <= step_of(own[0].name)


def _foreign(store: CheckpointStore, folder: Path, why: str) -> ModelwrightError:
    name = folder.absolute().parent.name
    return ModelwrightError(
        f"the store holds the checkpoints of another run that is called '{name}', {why}",
        where=store.where(),
        remedy="give this run another name or another store (saving.to), or empty that folder",
    )


def _learnt(run: Path) -> Iterator[tuple[str, str]]:
    """Digests by dotted path of the recipe, and of the prepared data; nothing of a training begun in Python."""
    recipe = run / "recipe.yaml"
    prepared = (run / "data.json").is_file()
    for path, value in _values(yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None, ""):
        unlearnt = path.partition(".")[0] in _NOT_LEARNT or path in _PLACES or (prepared and path in _SOURCES)
        if not unlearnt:
            yield path, _digest(value)
    if prepared:  # where it was prepared; the folder's name goes by the content
        yield "the data itself", _digest(read_json(run / "data.json").get("name"))


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _values(item, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
