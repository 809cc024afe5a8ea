"""Labelled text: tokens of a text, and the class it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Tokenizer
from modelwright.data.media.class_folders import Labelled, class_files, files_key
from modelwright.data.sequences.padded import Fill, Padded
from modelwright.data.sequences.ragged import Ragged
from modelwright.data.sequences.rows import Coding, Columns, Tally, TokenRows, check_length
from modelwright.data.sequences.sources import Made, Parts, Row, Source, record_files
from modelwright.data.sequences.text_encoder import TextEncoder
from modelwright.data.tokenizers.tokenizing import utf8

_PAD = 0


@dataclass(frozen=True, kw_only=True)
class LabelledText(TokenRows):
    """Texts with classes, for :class:`TextClasses` and its like.

    Attributes:
        length: tokens in a sample; a longer text loses its end, a shorter one is filled with 0. ``None``: as many
            as the longest text of each batch.
        tokenizer: what makes tokens; learnt from the training texts only.
        held_out: part of the texts to judge by, in [0, 1). Each is decided by a hash, so equal texts stay together.
        seed: chooses which texts are held out.
    """

    length: int | None = 256

    kind: ClassVar[str] = "text-classes"
    columns: ClassVar[tuple[str, ...]] = ("inputs", "label")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length("length", self.length)

    def text_of(self, row: Row) -> str:
        """The text of a row."""
        return row.text(self.text_column)

    def label_of(self, row: Row) -> str:
        """The name of a row's class."""
        return str(row.value("label"))

    def identity(self, row: Row) -> object:
        """The text."""
        return self.text_of(row)

    def texts(self, row: Row) -> list[str]:
        """The text."""
        return [self.text_of(row)]

    def coding(self, tokenizer: Tokenizer, parts: Parts) -> Coding:
        """Tokens of the text and the number of the class."""
        names = _classes(self.label_of(row) for part in parts.names for row in parts.rows(part))
        numbers = {name: number for number, name in enumerate(names)}
        encode = partial(self._encoded, tokenizer, numbers)
        return Coding(self.columns, encode, {"classes": len(names)}, {"classes": names})

    def dataset(self, rows: Ragged, tokenizer: Tokenizer) -> Dataset:
        """``inputs`` int64 ``[rows, length]``; ``lengths`` and ``targets`` int64 ``[rows]``."""
        fields = {"inputs": Fill("inputs", self.length, _PAD)}
        return Padded(rows, fields, numbers={"targets": "label"}, lengths={"lengths": "inputs"})

    def encoder(self, tokenizer: Tokenizer, classes: tuple[str, ...]) -> TextEncoder:
        """Reads new texts."""
        return TextEncoder(tokenizer, self.text_column, self.length, _PAD, classes)

    @property
    def text_column(self) -> str:
        """The column of the text."""
        return "text"

    def _encoded(self, tokenizer: Tokenizer, numbers: dict[str, int], row: Row, tally: Tally) -> Columns | None:
        tokens = tokenizer.encode(utf8(self.text_of(row)))
        if not len(tokens):
            return tally.leave_out("empty", row)
        if self.length is not None and len(tokens) > self.length:
            tally.note("cut", row)
        return {"inputs": tokens[: self.length], "label": np.array([numbers[self.label_of(row)]])}


@dataclass(frozen=True, kw_only=True)
class TextClasses(LabelledText):
    """Records with a text and a label, or a folder of text files for each class.

    Attributes:
        files: patterns of files of records, such as ``reviews/*.csv``.
        held_out_files: patterns of records to judge by, instead of a part of ``files``.
        root: the folder that patterns start from.
        text: column of the texts.
        label: column of the labels.
        folder: holds a folder for each class, instead of ``files``. Bytes that are not UTF-8 are kept.
        length: tokens in a sample; a longer text loses its end, a shorter one is filled with 0. ``None``: as many
            as the longest text of each batch.
        tokenizer: what makes tokens; learnt from the training texts only.
        held_out: part of the texts to judge by, in [0, 1). Each is decided by a hash, so equal texts stay together.
        seed: chooses which texts are held out.
    """

    files: tuple[str, ...] = ()
    held_out_files: tuple[str, ...] = ()
    root: str = "."
    text: str = "text"
    label: str = "label"
    folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.files) == (self.folder is not None):
            raise ModelwrightError(
                "texts come from files of records or from a folder; one of them must be named",
                where="files",
                remedy="files: ['reviews/*.csv']   or   folder: reviews",
            )
        if self.text == self.label:
            raise ModelwrightError(
                "the text and the label are one column", where="label", remedy="label: the column of the classes"
            )

    def sources(self) -> dict[str, Source]:
        """The records, or the files of the folder."""
        if self.folder is None:
            return record_files(self.files, self.held_out_files, self.root)
        files = class_files(Path(self.folder), ())
        return {"train": Made(files_key({"all": files}), partial(_read, files))}

    @property
    def text_column(self) -> str:
        """The column that is named; a folder has none."""
        return self.text if self.folder is None else "text"

    def label_of(self, row: Row) -> str:
        """The label of the column."""
        value = row.value(self.label if self.folder is None else "label")
        if not isinstance(value, (str, int)) or value == "":
            raise ModelwrightError(
                f"the label is {value!r}, not a name or a whole number",
                where=row.where,
                remedy="mend the record, or leave it out",
            )
        return str(value)


def _classes(labels: Iterator[str]) -> list[str]:
    """Names of classes in order; whole numbers by their size."""
    names = set(labels)
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _read(files: list[Labelled]) -> Iterator[Row]:
    for file in files:
        text = file.path.read_bytes().decode("utf-8", "surrogateescape")
        yield Row(str(file.path), {"text": text, "label": file.label})
