"""Loading: the newest whole checkpoint, on disk or in a store; a damaged one is named and passed over."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.base import tensor_file
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import file_hash, make_folder, read_json
from modelwright.base.group import Group
from modelwright.runs.weights import find_damage, list_checkpoints, step_of
from modelwright.training.checkpoints.background import await_writing
from modelwright.training.checkpoints.owner import claim
from modelwright.training.checkpoints.snapshot import FORMAT, FURTHER, MODEL, OPTIMIZER
from modelwright.training.checkpoints.storing import CheckpointStore, open_store
from modelwright.training.state import State

HERE, AWAY = "disk", "store"


def load_newest(state: State, folder: Path, group: Group, to: str | None = None) -> Path | None:
    """Load the newest whole checkpoint on every rank; rank 0 looks which ones there are.

    Each rank reads each file once and hashes it on the way.

    Args:
        state: becomes what was saved.
        folder: of the checkpoints, the same for every rank.
        group: the ranks.
        to: the store that checkpoints are copied to, if any: what is missing on the disk is fetched from there.

    Returns:
        The one that was loaded; ``None`` where there is none. A damaged one is named by an event and passed over.

    Raises:
        ModelwrightError: it does not fit this training, is of a newer modelwright, or a rank cannot see it; the store
            is that of another run; or of those that are there none is whole.
    """
    await_writing(folder)
    store, looked = _look(folder, to) if group.rank == 0 else (None, [])
    found = group.gather(looked)[0]
    for name, place in found:
        path = folder / str(name)
        if place == AWAY and not group.gather(_fetch(store, path.name, folder))[0]:
            continue
        saved, damage = _read(path)
        damages = group.gather(damage)
        if damages[0]:
            _tell(path, damages[0], group)
        elif any(damages):
            raise _unseen(path, damages)
        else:
            if place == AWAY:
                _check_same_run(saved, state, path, group)
            saved.into(state)
            return path
    if len(found) > 1 or any(place == HERE for _, place in found):  # else it is the first in a store, half copied
        raise none_whole(folder)
    return None


def find_newest(folder: Path, to: str | None = None) -> Path | None:
    """The newest whole checkpoint, fetched from the store ``to`` if need be; damaged ones are named by events."""
    store, found = _look(folder, to)
    for name, place in found:
        path = folder / name
        if place == AWAY:
            if _fetch(store, name, folder):
                return path
            continue
        damage = find_damage(path)
        if damage is None:
            return path
        _passed_over(str(path), damage)
    return None


def none_whole(folder: Path) -> ModelwrightError:
    """Why a run does not begin anew where its checkpoints are damaged: it would write over what they learnt."""
    return ModelwrightError(
        "no checkpoint of the run is whole: it would begin anew",
        where=str(folder),
        remedy="restore one from a copy; to begin anew all the same, train the recipe under another name, or remove "
        "the folder of checkpoints",
    )


def load(state: State, path: Path) -> None:
    """Load one checkpoint into ``state``.

    Raises:
        ModelwrightError: it is damaged, does not fit this training, or is of a newer modelwright.
    """
    saved, damage = _read(path)
    if damage:
        raise ModelwrightError(
            f"the checkpoint is damaged: {damage}", where=str(path), remedy="take the one before, or a copy"
        )
    saved.into(state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, each with memory of its own; loading into a model keeps the model's ties.

    Raises:
        ModelwrightError: not a safetensors file.
    """
    return tensor_file.read_tensors(path)[0]


@dataclass
class _Saved:
    """What was read of a checkpoint; called with a file, it is the file's hash, and the tensors are kept."""

    path: Path
    numbers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __call__(self, file: Path) -> str:
        name = file.relative_to(self.path).as_posix()
        if name not in (MODEL, OPTIMIZER, FURTHER):
            return file_hash(file)
        try:
            self.tensors[name], digest = tensor_file.read_tensors(file)
        except ModelwrightError:
            return file_hash(file)  # the hash will tell; if not, it was written like that
        return digest

    def into(self, state: State) -> None:
        if missing := {MODEL, OPTIMIZER} - self.tensors.keys():
            raise ModelwrightError("the checkpoint holds no readable " + ", ".join(missing), where=str(self.path))
        state.load(self.tensors[MODEL], self.tensors[OPTIMIZER], self.numbers, self.tensors.get(FURTHER, {}))


def _read(path: Path) -> tuple[_Saved, str]:
    """The checkpoint, and what is wrong with it."""
    saved = _Saved(path)
    try:
        saved.numbers = _numbers(path / "state.json")
    except _Newer:
        raise
    except ModelwrightError:
        return saved, find_damage(path) or "state.json is no state"
    return saved, find_damage(path, saved) or ""


class _Newer(ModelwrightError):
    pass


def _numbers(path: Path) -> dict[str, Any]:
    numbers = read_json(path)
    if not isinstance(numbers, dict) or not isinstance(numbers.get("format"), int):
        raise ModelwrightError("no state", where=str(path))
    if numbers.pop("format") > FORMAT:
        raise _Newer(
            "this checkpoint was written by a newer modelwright",
            where=str(path.parent),
            remedy="upgrade: pip install -U modelwright",
        )
    return numbers


def _look(folder: Path, to: str | None) -> tuple[CheckpointStore | None, list[tuple[str, str]]]:
    """Checkpoints by name and place, newest first; of the same step that on the disk first."""
    here = [(path.name, HERE) for path in list_checkpoints(folder)]
    if to is None:
        return None, here
    try:
        store = open_store(to, folder)
        away = [(name, AWAY) for name in store.names()]
    except ModelwrightError as error:
        if not here:  # starting anew would be a surprise
            raise
        emit("store-unreachable", f"only the disk is looked at: {error.what}", level="warning", where=error.where)
        return None, here
    if away:
        claim(store, folder)
    return store, sorted([*here, *away], key=lambda found: step_of(found[0]), reverse=True)


def _fetch(store: CheckpointStore | None, name: str, folder: Path) -> bool:
    """Whether the checkpoint of the store lies on the disk now; elsewhere than on rank 0 nothing happens."""
    if store is None:
        return False
    make_folder(folder)
    damage = store.download(name, folder)
    if damage is not None:
        _passed_over(store.where(name), damage)
        return False
    message = f"{name} is fetched from {store.where(name)}"
    emit("checkpoint-fetched", message, level="warning", path=str(folder / name), store=store.where(name))
    return True


def _check_same_run(saved: _Saved, state: State, path: Path, group: Group) -> None:
    """A store may hold a run of the same name, of another folder or machine."""
    theirs = saved.numbers.get("total")
    if theirs == state.total:
        return
    if group.rank == 0:
        shutil.rmtree(path)  # every rank has read it: their damages were gathered
    raise ModelwrightError(
        f"the store has a run of this name of {theirs} steps, and this one has {state.total}",
        where=str(path),
        remedy="give the run another name, or empty the store's folder",
    )


def _tell(path: Path, damage: str, group: Group) -> None:
    if group.rank == 0:
        _passed_over(str(path), damage)


def _passed_over(path: str, damage: str) -> None:
    emit("checkpoint-damaged", f"{path} is passed over: {damage}", level="warning", path=path)


def _unseen(path: Path, damages: list[str]) -> ModelwrightError:
    ranks = [rank for rank, damage in enumerate(damages) if damage]
    return ModelwrightError(
        f"rank {ranks[0]} cannot read the checkpoint that rank 0 reads: {damages[ranks[0]]}",
        where=str(path),
        remedy="the run's folder has to be the same for all ranks: put it on a disk that they share",
    )
