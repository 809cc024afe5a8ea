"""What sources of tables share: columns of rows become arrays once, memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest
from modelwright.data.memory import InMemory
from modelwright.data.tables import build, encoder
from modelwright.data.tables.records import Record, find_files, kind_of, placed

FORMAT = 1  # raise it when the same files give other arrays
_NOT_IN_KEY = ("files", "held_out_files", "root", "folder")  # what they hold is


@dataclass(frozen=True, kw_only=True)
class Table(ABC):
    """Rows of which one column is to be learnt from the others.

    Attributes:
        target: the column to be learnt.
        features: the columns to learn from, in this order. None named: all others, as the first row has them.
        kind: ``regression``, ``classification``, or ``auto``: texts, truth values and whole numbers of which
            at most 20 differ are classes, other numbers are quantities.
        categorical: columns of which numbers, too, are names and not quantities.
        categories: how texts become numbers: ``one-hot``, a feature for each; or ``codes``, one feature, 0
            for what the training rows do not hold.
        missing: what becomes of a missing value: ``error`` names its place; ``mean`` takes the mean of the
            training rows for a number, and no category for a text.
        standardise: give numbers mean 0 and spread 1, measured on the training rows; a quantity to be learnt
            too.
        held_out: part of the rows to judge by, in [0, 1), each row decided by a hash of its values: equal
            rows stay together, and more rows move no others. ``None``: a tenth.
        seed: chooses which rows are held out.
    """

    target: str
    features: tuple[str, ...] = ()
    kind: Literal["auto", "regression", "classification"] = "auto"
    categorical: tuple[str, ...] = ()
    categories: Literal["one-hot", "codes"] = "one-hot"
    missing: Literal["error", "mean"] = "error"
    standardise: bool = True
    held_out: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise ModelwrightError(
                    f"{field} is '{getattr(self, field)}'", where=field, remedy=f"choose one of {', '.join(known)}"
                )
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise ModelwrightError(f"held_out is {self.held_out}; it is at least 0, below 1", where="held_out")
        if self.target in self.features:
            raise ModelwrightError(f"'{self.target}' is learnt from itself", where="features", remedy="take it out")
        if len(set(self.features)) < len(self.features):
            raise ModelwrightError("a column is named twice", where="features", remedy="name each column once")

    @abstractmethod
    def sources(self) -> list[tuple[str, Path]]:
        """Pairs of a part, ``train`` or ``held_out``, and a file of it.

        Raises:
            ModelwrightError: a file is missing.
        """

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one file."""
        return placed(path)

    def declared(self) -> Mapping[str, tuple[str, ...]]:
        """The classes of columns whose file says them, in their order."""
        return {}

    @property
    def splits_by_file(self) -> bool:
        """Whether files are named to judge by."""
        return False

    @property
    def held_out_share(self) -> float | None:
        """Part of the rows to be held out; ``None`` where files are."""
        if self.splits_by_file:
            return None
        return 0.1 if self.held_out is None else self.held_out

    @property
    def shown(self) -> str:
        """The files, for a message."""
        return ", ".join(str(path) for _, path in self.sources()[:3])

    def keeps_levels(self, column: str) -> bool:
        """Whether numbers of a column may be names."""
        return column == self.target or column in self.categorical

    def stamps(self) -> list[tuple[str, int, int]]:
        """What tells one state of the files from another, without reading them."""
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for _, path in self.sources()]

    def prepare(self, cache: Path) -> Path:
        """Turn the rows into arrays under ``cache``, unless that was done; returns their folder.

        Raises:
            ModelwrightError: a row cannot be used; names ``FILE:LINE`` and column.
        """
        settings = {name: value for name, value in vars(self).items() if name not in _NOT_IN_KEY}
        settings["kind of file"] = type(self).__name__
        settings["files"] = [(part, kind_of(path), file_hash(path)) for part, path in self.sources()]
        settings["format"] = FORMAT
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return build_once(cache / f"table-{key[:16]}", partial(build.write, self))

    def open(self, folder: Path) -> Splits:
        """Map the arrays that :meth:`prepare` wrote.

        Raises:
            ModelwrightError: a file is missing or damaged.
        """
        facts = read_manifest(folder)["facts"]
        loaded = encoder.load(folder)
        held_out = _part(folder, "held_out") if (folder / "held_out_inputs.npy").is_file() else None
        return Splits(_part(folder, "train"), held_out, facts, encoder=loaded)


@dataclass(frozen=True, kw_only=True)
class TableFiles(Table):
    """A table in files chosen by patterns.

    Attributes:
        files: patterns such as ``tables/*.csv``; files in the order of their paths.
        held_out_files: patterns of files to judge by, instead of a part of the rows.
        root: the folder that patterns start from.
    """

    files: tuple[str, ...]
    held_out_files: tuple[str, ...] = ()
    root: str = "."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ModelwrightError("no files are named", where="files", remedy="files: ['tables/*.csv']")
        if self.held_out is not None and self.held_out_files:
            raise ModelwrightError(
                "held-out data is given twice: as a part and as files",
                where="held_out",
                remedy="keep held_out or held_out_files",
            )

    @property
    def splits_by_file(self) -> bool:
        """Whether files are named to judge by."""
        return bool(self.held_out_files)

    def sources(self) -> list[tuple[str, Path]]:
        """The files of both parts.

        Raises:
            ModelwrightError: a pattern matches no file, or a file is in both parts.
        """
        train = find_files(self.files, "files", self.root)
        held_out: list[Path] = []
        if self.held_out_files:
            held_out = find_files(self.held_out_files, "held_out_files", self.root)
        if both := {path.resolve() for path in train} & {path.resolve() for path in held_out}:
            raise ModelwrightError(
                "a file is to be learnt from and judged by",
                where=str(min(both)),
                remedy="narrow the patterns of files or held_out_files",
            )
        return [("train", path) for path in train] + [("held_out", path) for path in held_out]


_CHOICES = {
    "kind": ("auto", "regression", "classification"),
    "categories": ("one-hot", "codes"),
    "missing": ("error", "mean"),
}


def _part(folder: Path, part: str) -> InMemory:
    names = ("inputs", "targets")
    return InMemory({name: np.load(folder / f"{part}_{name}.npy", mmap_mode="r") for name in names})
