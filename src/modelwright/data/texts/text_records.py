"""Text in a column of your own tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.records import find_files
from modelwright.data.texts.documents import RowTexts
from modelwright.data.texts.text import Text


@dataclass(frozen=True, kw_only=True)
class TextRecords(Text):
    """Each row of JSON lines, CSV, Parquet, Arrow, TFRecord or webdataset files is a document.

    Attributes:
        files: patterns such as ``corpus/*.jsonl.gz``.
        text: the column that holds the text.
        root: the folder that patterns start from.
        held_out: part of the rows to judge by, in [0, 1). Each row is decided by a hash of its file and line.
        documents: ``joined``: windows run on from one row to the next, and tokens see the one before; ``separate``:
            tokens see their own row only, and positions begin anew in each.
        seed: chooses which rows are held out.
    """

    files: tuple[str, ...]
    text: str = "text"
    root: str = "."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ModelwrightError("no files are named", where="files", remedy="files: ['corpus/*.jsonl']")

    def texts(self) -> RowTexts:
        """The rows, named by file and line.

        Raises:
            ModelwrightError: a pattern matches no file.
        """
        return RowTexts(find_files(self.files, "files", self.root), self.text, Path(self.root))
