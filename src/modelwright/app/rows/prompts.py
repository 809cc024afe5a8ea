"""Files of prompts."""

from __future__ import annotations

from pathlib import Path

from modelwright.app.rows.files import Row
from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.records import kind_of, lines, placed

MADE = ("text", "tokens", "finish")
"""Names in the rows that are written; a row of a file of prompts must not have them."""


def read_prompts(path: Path) -> list[Row]:
    """The rows of a file, each with its ``prompt``.

    ``.txt``: each line that is not empty is a prompt. Other kinds, such as ``.jsonl``, ``.csv`` and ``.parquet``:
    each row has a ``prompt``, and keeps its other fields.

    Raises:
        ModelwrightError: the file cannot be read, or a row has no ``prompt``, or names that are written.
    """
    if kind_of(path) == ".txt":
        texts = (line.rstrip("\r\n") for _, line in lines(path))
        return [{"prompt": text} for text in texts if text.strip()]
    return [_checked(row, place) for place, row in placed(path)]


def _checked(row: Row, place: str) -> Row:
    if not isinstance(row.get("prompt"), str):
        raise ModelwrightError(
            "a row has no 'prompt' that is text",
            where=place,
            remedy='write rows such as {"prompt": "Once upon a time"}, or one prompt a line in a .txt file',
        )
    if taken := [name for name in MADE if name in row]:
        raise ModelwrightError(
            f"a row has the name '{taken[0]}', which is to be written", where=place, remedy="rename it"
        )
    return row
