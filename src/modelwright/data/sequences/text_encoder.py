"""New texts as the model's inputs, made as the labelled ones it learnt from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.data import Tokenizer
from modelwright.data.classes import names_of
from modelwright.data.tokenizers.tokenizing import utf8

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.data import Batch


@dataclass(frozen=True)
class TextEncoder:
    """Rows with a text to padded tokens, and outputs to names of classes.

    Attributes:
        tokenizer: that the training texts were read with.
        column: of the text.
        length: tokens in a sample; ``None``: as many as the longest of a batch.
        pad: stands after the end of a shorter text.
        classes: their names by number.
    """

    tokenizer: Tokenizer
    column: str
    length: int | None
    pad: int
    classes: tuple[str, ...]

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Batch:
        """``inputs`` int64 ``[rows, length]`` and ``lengths`` int64 ``[rows]``; labels are not looked at.

        Raises:
            ModelwrightError: a row has no text, or an empty one.
        """
        tokens = [self._tokens(number, row) for number, row in enumerate(rows, start=1)]
        length = self.length or max(map(len, tokens), default=0)
        padded = [[*each, *[self.pad] * (length - len(each))] for each in tokens]
        return {"inputs": torch.tensor(padded), "lengths": torch.tensor([len(each) for each in tokens])}

    def decode(self, outputs: Tensor) -> list[Any]:
        """Names of the likeliest classes of ``outputs [rows, classes]``."""
        return names_of(outputs, self.classes)

    def _tokens(self, number: int, row: Mapping[str, Any]) -> list[int]:
        if self.column not in row:
            raise ModelwrightError(
                f"there is no column '{self.column}'",
                where=f"row {number}",
                remedy=f"the model reads its text from there; {nearest(self.column, row)}",
            )
        text = row[self.column]
        if not isinstance(text, str) or not text:
            shown = "empty" if text in ("", None) else f"a {type(text).__name__}"
            raise ModelwrightError(
                f"'{self.column}' is {shown}, not a text", where=f"row {number}", remedy="mend the row, or leave it out"
            )
        return [int(token) for token in self.tokenizer.encode(utf8(text))[: self.length]]
