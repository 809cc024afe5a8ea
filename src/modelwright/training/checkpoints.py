"""Checkpoints: a folder of safetensors and JSON with a manifest of hashes, complete or not there at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import file_hash, make_folder, read_json, speaking, write_json
from modelwright.base.group import Group
from modelwright.runs.weights import SHOWN, find_damage, list_checkpoints
from modelwright.training.state import State
from modelwright.training.weights import Weights

FORMAT = 1


def save(state: State, folder: Path, group: Group, keep: int, weights: Weights | None = None) -> Path:
    """Write ``folder/step-N`` and drop all but the newest ``keep``; rank 0 writes, the others wait.

    Where the weights to be scored are not those in training, ``weights`` has them written too.

    Raises:
        ModelwrightError: disk full, no permission.
    """
    target = folder / f"step-{state.step:08d}"
    if group.rank == 0 and (not target.exists() or find_damage(target)):
        _write(state, target, weights)
        _drop_others(target, keep)
    group.barrier()
    return target


def load_newest(state: State, folder: Path, group: Group) -> Path | None:
    """Load the newest whole checkpoint on every rank; rank 0 looks which one that is.

    Returns:
        The one that was loaded; ``None`` where there is none. A damaged one is named by an event and passed over.
    """
    chosen = group.gather(str(find_newest(folder) or "") if group.rank == 0 else "")[0]
    if not chosen:
        return None
    load(state, Path(chosen))
    return Path(chosen)


def find_newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named by events."""
    for path in list_checkpoints(folder):
        damage = find_damage(path)
        if damage is None:
            return path
        emit("checkpoint-damaged", f"{path} is passed over: {damage}", level="warning", path=str(path))
    return None


def load(state: State, path: Path) -> None:
    """Load one checkpoint into ``state``."""
    numbers, further = _numbers(path), path / "further.safetensors"
    state.load(
        read_tensors(path / "model.safetensors"),
        read_tensors(path / "optimizer.safetensors"),
        numbers,
        read_tensors(further) if further.exists() else {},
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, each with memory of its own; loading into a model keeps the model's ties.

    Raises:
        ModelwrightError: not a safetensors file.
    """
    try:
        return load_file(path)
    except Exception as error:
        raise ModelwrightError(f"cannot read the tensors: {error}", where=str(path)) from error


def _write(state: State, target: Path, weights: Weights | None) -> None:
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        with speaking(partial):
            _fill(partial, state, weights)
            shutil.rmtree(target, ignore_errors=True)  # if it is there, it is damaged
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would be in the way


def _fill(folder: Path, state: State, weights: Weights | None) -> None:
    _save_tensors(state.model_tensors(), folder / "model.safetensors")
    _save_tensors(state.optimizer_tensors(), folder / "optimizer.safetensors")
    if further := state.further_tensors():
        _save_tensors(further, folder / "further.safetensors")
    if weights is not None and weights.averaged:
        with weights.shown():
            _save_tensors(state.model_tensors(), folder / SHOWN)
    write_json(folder / "state.json", {"format": FORMAT, **state.numbers()})
    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in sorted(folder.iterdir())}
    write_json(folder / "manifest.json", {"format": FORMAT, "files": files})


def _drop_others(newest: Path, keep: int) -> None:
    """Leave ``newest`` and those before it, ``keep`` in all; one of a later step is damaged, or we would be there."""
    found = list_checkpoints(newest.parent)
    place = found.index(newest)
    with speaking(newest.parent):
        for path in [*found[:place], *found[place + keep :]]:
            shutil.rmtree(path)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        # A copy each: tied tensors share memory, which the format does not express.
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        number = _errno_in(str(error))
        raise (OSError(number, os.strerror(number), str(path)) if number else error) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _errno_in(message: str) -> int | None:
    """The errno inside a safetensors I/O error, which comes as text: ``... (os error 28)``."""
    match = re.search(r"os error (\d+)", message) or re.search(r"code: (\d+)", message)
    return int(match[1]) if match else None


def _numbers(path: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = read_json(path / "state.json")
    if numbers.pop("format") > FORMAT:
        raise ModelwrightError(
            "this checkpoint was written by a newer modelwright",
            where=str(path),
            remedy="upgrade: pip install -U modelwright",
        )
    return numbers
