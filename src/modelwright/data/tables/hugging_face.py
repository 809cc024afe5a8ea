"""Folders written by ``datasets.save_to_disk``, read through pyarrow, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError, nearest
from modelwright.base.files import read_json
from modelwright.data.tables.parquet import arrow_error
from modelwright.data.tables.records import Record, unreadable
from modelwright.data.tables.tables import Table

try:
    import pyarrow
    from pyarrow import ipc
except ImportError as error:
    raise MissingExtra("parquet", "reading Hugging Face data sets") from error

_SPLITS = "dataset_dict.json"
_STATE = "state.json"
_INFO = "dataset_info.json"
_ROWS = 4096  # rows in memory at once


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Table):
    """A table saved with ``datasets``' ``save_to_disk``; nothing is downloaded. Classes keep their names and order.

    Attributes:
        folder: what ``save_to_disk`` wrote: one data set, or one for each split.
        split: the split to learn from, where there are several.
        held_out_split: the split to judge by, instead of a part of the rows.
    """

    folder: str
    split: str = "train"
    held_out_split: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out is not None and self.held_out_split is not None:
            raise ModelwrightError(
                "held-out data is given twice: as a part and as a split",
                where="held_out",
                remedy="keep held_out or held_out_split",
            )
        if self.held_out_split == self.split:
            raise ModelwrightError("a split is to be learnt from and judged by", where="held_out_split")

    @property
    def splits_by_file(self) -> bool:
        """Whether a split is named to judge by."""
        return self.held_out_split is not None

    def sources(self) -> list[tuple[str, Path]]:
        """The Arrow files of both parts.

        Raises:
            ModelwrightError: the folder, a split or a file is missing.
        """
        train = [("train", path) for path in arrow_files(split_folder(Path(self.folder), self.split))]
        if self.held_out_split is None:
            return train
        held_out = split_folder(Path(self.folder), self.held_out_split)
        return train + [("held_out", path) for path in arrow_files(held_out)]

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one Arrow file, classes by their names."""
        names = class_names(path.parent)
        for place, row in read(path):
            yield place, {name: _named(value, names.get(name), place) for name, value in row.items()}

    def declared(self) -> Mapping[str, tuple[str, ...]]:
        """Columns of classes, and the names of these."""
        return class_names(split_folder(Path(self.folder), self.split))


def split_folder(folder: Path, split: str) -> Path:
    """The folder of one split.

    Raises:
        ModelwrightError: it is not there.
    """
    if (folder / _STATE).is_file() and split == "train":
        return folder
    if not (folder / _SPLITS).is_file():
        what = "holds a single data set" if (folder / _STATE).is_file() else "was not written by datasets' save_to_disk"
        raise ModelwrightError(f"the folder {what}", where=str(folder), remedy="name a folder that save_to_disk wrote")
    known = read_json(folder / _SPLITS).get("splits", [])
    if split not in known:
        raise ModelwrightError(f"there is no split '{split}'", where=str(folder), remedy=nearest(split, known))
    return folder / split


def arrow_files(folder: Path) -> list[Path]:
    """The Arrow files of one data set, in order.

    Raises:
        ModelwrightError: its description or a file is missing.
    """
    files = [folder / entry["filename"] for entry in read_json(folder / _STATE).get("_data_files", [])]
    for path in files:
        if not path.is_file():
            raise unreadable(path, "it is missing", "save the data set again with save_to_disk")
    return files


def class_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Names of the classes of columns that hold classes."""
    features = read_json(folder / _INFO).get("features") or {}
    return {
        name: tuple(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def read(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place (``FILE:ROW``, counting from 1) and a row of one Arrow stream.

    Raises:
        ModelwrightError: the file is damaged.
    """
    number = 0
    try:
        with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
            for batch in stream:
                for begin in range(0, batch.num_rows, _ROWS):
                    for row in batch.slice(begin, _ROWS).to_pylist():
                        number += 1
                        yield f"{path}:{number}", row
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        raise arrow_error(path, number, error) from error


def _named(value: Any, names: tuple[str, ...] | None, place: str) -> Any:
    if names is None or value is None or value == -1:  # -1 stands for no label
        return None if names is not None else value
    if not 0 <= value < len(names):
        raise ModelwrightError(f"class {value} has no name", where=place, remedy=f"there are {len(names)} names")
    return names[value]
