"""Sequence pairs: a source and the target it becomes, for translation and its like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset, Tokenizer
from modelwright.data.sequences.padded import Fill, Padded
from modelwright.data.sequences.ragged import Ragged
from modelwright.data.sequences.rows import Coding, Columns, Tally, TokenRows, check_length
from modelwright.data.sequences.sources import Parts, Row, Source, record_files
from modelwright.data.texts.windows import NOT_SCORED
from modelwright.data.tokenizers.tokenizing import utf8


@dataclass(frozen=True, kw_only=True)
class Pairs(TokenRows):
    """Pairs of texts as tokens of one vocabulary.

    A target begins with the end of a text, as ``decoder_inputs`` have it, and ends with it, as ``targets`` have it.

    Attributes:
        source_length: tokens in ``inputs``; a longer source loses its end.
        target_length: tokens in ``targets``; a longer target loses its end.
        tokenizer: what makes tokens; learnt from both sides of the training rows only.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its source, so rows
            with the same source stay together.
        seed: chooses which rows are held out.
    """

    source_length: int = 128
    target_length: int = 128

    kind: ClassVar[str] = "pairs"
    columns: ClassVar[tuple[str, ...]] = ("source", "decoder_inputs", "targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length("source_length", self.source_length)
        check_length("target_length", self.target_length)

    def pair(self, row: Row) -> tuple[str, str]:
        """The source and the target of a row."""
        return row.text("source"), row.text("target")

    def identity(self, row: Row) -> object:
        """The source."""
        return self.pair(row)[0]

    def texts(self, row: Row) -> list[str]:
        """Both sides."""
        return list(self.pair(row))

    def coding(self, tokenizer: Tokenizer, parts: Parts) -> Coding:
        """Tokens of both sides."""
        return Coding(self.columns, partial(self._encoded, tokenizer))

    def dataset(self, rows: Ragged, tokenizer: Tokenizer) -> Dataset:
        """``inputs`` int64 and ``input_mask`` bool ``[rows, source_length]``, ``decoder_inputs`` and ``targets``.

        The latter two are int64 ``[rows, target_length]``; ``targets`` are -100 after their end.
        """
        fields = {
            "inputs": Fill("source", self.source_length, tokenizer.end_of_text),
            "decoder_inputs": Fill("decoder_inputs", self.target_length, tokenizer.end_of_text),
            "targets": Fill("targets", self.target_length, NOT_SCORED),
        }
        return Padded(rows, fields, masks={"input_mask": "inputs"})

    def _encoded(self, tokenizer: Tokenizer, row: Row, tally: Tally) -> Columns | None:
        texts = self.pair(row)
        source, target = (tokenizer.encode(utf8(text)) for text in texts)
        if not len(source):
            return tally.leave_out("empty", row)  # attention over nothing has no value
        if len(source) > self.source_length or len(target) + 1 > self.target_length:
            tally.note("cut", row)
        ended = np.concatenate([[tokenizer.end_of_text], target, [tokenizer.end_of_text]])[: self.target_length + 1]
        return {"source": source[: self.source_length], "decoder_inputs": ended[:-1], "targets": ended[1:]}


@dataclass(frozen=True, kw_only=True)
class SequencePairs(Pairs):
    """Records with a source and a target.

    Attributes:
        files: patterns of files of records, such as ``pairs/*.tsv``.
        held_out_files: patterns of records to judge by, instead of a part of ``files``.
        root: the folder that patterns start from.
        source: column of the sources.
        target: column of the targets.
        source_length: tokens in ``inputs``; a longer source loses its end.
        target_length: tokens in ``targets``; a longer target loses its end.
        tokenizer: what makes tokens; learnt from both sides of the training rows only.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its source, so rows
            with the same source stay together.
        seed: chooses which rows are held out.
    """

    files: tuple[str, ...]
    held_out_files: tuple[str, ...] = ()
    root: str = "."
    source: str = "source"
    target: str = "target"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == self.target:
            raise ModelwrightError(
                "the source and the target are one column", where="target", remedy="target: the column of the targets"
            )

    def sources(self) -> dict[str, Source]:
        """The records."""
        return record_files(self.files, self.held_out_files, self.root)

    def pair(self, row: Row) -> tuple[str, str]:
        """The texts of the two columns."""
        return row.text(self.source), row.text(self.target)
