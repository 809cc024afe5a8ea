"""JSON lines: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelwright.data.tables.records import Record, lines, malformed
from modelwright.data.tables.tables import TableFiles


@dataclass(frozen=True, kw_only=True)
class Jsonl(TableFiles):
    """Tables in JSON lines, an object a line, perhaps ``.gz``. Lists of numbers become several features."""

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one file."""
        return read(path)


def read(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place and an object; blank lines are passed over.

    Raises:
        ModelwrightError: a line is no JSON object; names ``FILE:LINE``.
    """
    for number, line in lines(path):
        if line.strip():
            yield f"{path}:{number}", _object(path, number, line)


def _object(path: Path, number: int, line: str) -> Record:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise malformed(path, number, f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise malformed(path, number, f"it is a {type(value).__name__}, not an object", 'write {"name": value, ...}')
    return value
