"""Weights in the files that others write: safetensors, shards with an index, and torch files without trust."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json
from modelwright.models.source import read_weights

_IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_NESTED = ("state_dict", "model_state_dict", "model")


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, an index of shards, or a state that ``torch.save`` wrote.

    Raises:
        ModelwrightError: no such file, no such format, a shard is missing, or the file holds more than data.
    """
    if path.is_dir():
        return read_folder(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    return state_in(read_torch(path), path)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a ``transformers`` folder: whole or sharded, safetensors before torch files.

    Raises:
        ModelwrightError: no such folder, no weights in it, or as of :func:`read_file`.
    """
    if not folder.is_dir():
        raise ModelwrightError("the folder does not exist", where=str(folder))
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return read_file(folder / name)
    raise ModelwrightError(
        "the folder holds no weights", where=str(folder), remedy=f"it needs one of: {', '.join(_IN_FOLDERS)}"
    )


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, as long as it is tensors, numbers, texts, lists and mappings; no code is run.

    Raises:
        ModelwrightError: no such file, no torch file, or it names classes or functions.
    """
    if not path.is_file():
        raise ModelwrightError("the file does not exist", where=str(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, UnicodeDecodeError) as error:
        raise ModelwrightError(
            f"this is no file that torch.save wrote: {_first_line(error)}",
            where=str(path),
            remedy="restore it from a copy",
        ) from error


def state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The names and tensors of a loaded torch file, also below ``state_dict``, ``model_state_dict`` or ``model``.

    Raises:
        ModelwrightError: there are none.
    """
    places = [content, *(content.get(name) for name in _NESTED)] if isinstance(content, Mapping) else []
    for place in places:
        if isinstance(place, Mapping) and any(isinstance(value, Tensor) for value in place.values()):
            return {str(name): value for name, value in place.items() if isinstance(value, Tensor)}
    found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ModelwrightError(
        f"the file holds no weights by name, but: {found or 'nothing'}",
        where=str(path),
        remedy="save model.state_dict(), or that below 'state_dict'",
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = dict(read_json(index)["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelwrightError("the index names no shards: it has no 'weight_map'", where=str(index)) from error
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        if Path(name).name != name:
            raise ModelwrightError(f"the index names a file outside of its folder: {name}", where=str(index))
        tensors |= read_file(index.parent / name)
    if missing := sorted(places.keys() - tensors.keys()):
        raise ModelwrightError(
            f"{len(missing)} tensors of the index are in no shard, '{missing[0]}' the first",
            where=str(index),
            remedy="copy the folder again, whole",
        )
    return tensors


def _refused(path: Path, error: Exception) -> ModelwrightError:
    names = _classes(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return ModelwrightError(
            f"this is no file that torch.save wrote: {_first_line(error)}",
            where=str(path),
            remedy="restore it from a copy",
        )
    return ModelwrightError(
        f"the file holds more than data, and reading it could run code: {', '.join(names[:8])}",
        where=str(path),
        remedy="nothing of it was run. If you trust it, write its weights anew where its classes are known:"
        " torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)",
    )


def _classes(path: Path) -> list[str]:
    """Found by taking the pickle apart, not by running it."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:
        return []


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
