"""Arrays in ``.npy`` files, memory-mapped where they lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json, write_json
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.memory import InMemory, facts_of, halves

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

FORMAT = 1
_FILE = "arrays.json"
_NUMBERS = "biuf"  # kinds of numpy types that torch has too


@dataclass(frozen=True, kw_only=True)
class NpyArrays:
    """Samples as rows of two ``.npy`` files. Nothing is copied: the files are read where they lie.

    Models are float32 and classes int64: batches hold float64 arrays as float32, and integer targets as int64.

    Attributes:
        inputs: file of ``[samples, ...]``.
        targets: file of ``[samples, ...]``; integers are classes.
        held_out: random part of the samples to judge by, in [0, 1). ``None``: a tenth, or what
            ``held_out_inputs`` names.
        held_out_inputs: file of samples to judge by, instead of a random part.
        held_out_targets: file of their targets.
        seed: chooses which samples are held out.
    """

    inputs: str
    targets: str
    held_out: float | None = None
    held_out_inputs: str | None = None
    held_out_targets: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.held_out_inputs is None) != (self.held_out_targets is None):
            raise ModelwrightError(
                "held-out inputs and targets come together, and one is missing",
                where="held_out_inputs" if self.held_out_inputs is None else "held_out_targets",
                remedy="name both files, or neither",
            )
        if self.held_out is not None and self.held_out_inputs is not None:
            raise ModelwrightError(
                "held-out data is given twice: as a part and as files",
                where="held_out",
                remedy="keep held_out, or held_out_inputs and held_out_targets",
            )
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise ModelwrightError(f"held_out is {self.held_out}; it is at least 0, below 1", where="held_out")

    def prepare(self, cache: Path) -> Path:
        """Check the files and note their facts under ``cache``.

        Raises:
            ModelwrightError: a file is missing, is no array of numbers, or differs in length from its
            partner.
        """
        arrays = {name: _mapped(Path(path), name) for name, path in self._paths().items()}
        for inputs, targets in (("inputs", "targets"), ("held_out_inputs", "held_out_targets")):
            _check_pair(arrays.get(inputs), arrays.get(targets), self._paths())
        key = hashlib.sha256(json.dumps(self._stamps(), sort_keys=True).encode()).hexdigest()
        return build_once(cache / f"npy-{key[:16]}", lambda folder: self._note(folder, arrays))

    def open(self, folder: Path) -> Splits:
        """Map the files.

        Raises:
            ModelwrightError: a file is gone, or changed since :meth:`prepare`.
        """
        noted = read_json(folder / _FILE)
        if noted["files"] != json.loads(json.dumps(self._stamps())):
            raise ModelwrightError(
                "the arrays changed since they were prepared",
                where=", ".join(self._paths().values()),
                remedy="start again",
            )
        arrays = {name: _mapped(Path(path), name) for name, path in self._paths().items()}
        train: Any = _Rows({"inputs": arrays["inputs"], "targets": arrays["targets"]})
        if "held_out_inputs" in arrays:
            held_out: Any = _Rows({"inputs": arrays["held_out_inputs"], "targets": arrays["held_out_targets"]})
        else:
            train, held_out = halves(train, 0.1 if self.held_out is None else self.held_out, self.seed)
        return Splits(train, held_out, noted["facts"])

    def _paths(self) -> dict[str, str]:
        paths = {
            "inputs": self.inputs,
            "targets": self.targets,
            "held_out_inputs": self.held_out_inputs,
            "held_out_targets": self.held_out_targets,
        }
        return {name: path for name, path in paths.items() if path is not None}

    def _stamps(self) -> dict[str, Any]:
        """What tells one state of the files from another, without reading them."""
        return {name: _stamp(Path(path), name) for name, path in self._paths().items()}

    def _note(self, folder: Path, arrays: dict[str, Any]) -> None:
        facts = facts_of(arrays["inputs"], arrays["targets"])
        if "held_out_targets" in arrays and "classes" in facts:
            other = facts_of(arrays["held_out_inputs"], arrays["held_out_targets"])
            facts["classes"] = max(facts["classes"], other.get("classes", 0))
        write_json(folder / _FILE, {"format": FORMAT, "files": self._stamps(), "facts": facts})


class _Rows(InMemory):
    """Rows in the types that models and losses take."""

    def __getitems__(self, positions: Positions) -> Batch:
        return {name: _usual(name, rows) for name, rows in super().__getitems__(positions).items()}


def _usual(name: str, rows: Tensor) -> Tensor:
    if rows.dtype == torch.float64:
        return rows.float()
    return rows if rows.is_floating_point() or name == "inputs" else rows.long()


def _stamp(path: Path, name: str) -> list[Any]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, name, error.strerror or str(error)) from error
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _mapped(path: Path, name: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, name, error.strerror or str(error)) from error
    except (ValueError, EOFError) as error:
        raise _unreadable(path, name, f"it is no .npy array of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _NUMBERS or array.ndim == 0:
        raise _unreadable(path, name, "it is no .npy array of numbers in rows")
    return array


def _check_pair(inputs: Any, targets: Any, paths: dict[str, str]) -> None:
    if inputs is not None and len(inputs) != len(targets):
        raise ModelwrightError(
            f"there are {len(inputs)} inputs and {len(targets)} targets",
            where=", ".join(paths.values()),
            remedy="give one target for each input",
        )
    if inputs is not None and len(inputs) == 0:
        raise ModelwrightError("the arrays hold no samples", where=", ".join(paths.values()))


def _unreadable(path: Path, name: str, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"the array of {name} cannot be read: {what}",
        where=str(path.resolve()),
        remedy="write it with numpy.save, and name its path from where the command starts",
    )
