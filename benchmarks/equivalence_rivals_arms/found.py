"""What was found in the cells of ``equivalence_rivals.py``: kept, judged, and put into a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import job

Row = tuple[str, dict[str, int]]


@dataclass
class Found:
    """What came of a cell."""

    error: str | None = None
    losses: float = math.nan
    norms: float = math.nan
    weights: float = math.nan
    held: float = 1.0
    first: dict[str, list[float]] = field(default_factory=dict)

    def agrees(self, condition: job.Condition) -> bool:
        values, weights = (2e-2, 1e-1) if condition.autocast else (1e-6, 1e-5)
        return self.error is None and max(self.losses, self.norms) <= values and self.weights <= weights


class Book:
    """What was found, cell by cell; kept in a file, if there is to be one, so that a run goes on where it ended."""

    def __init__(self, path: Path | None, closed: bool = False) -> None:
        self.path, self.closed, self.found = path, closed, {}
        if path is not None and path.exists():
            self.found = {key: Found(**values) for key, values in json.loads(path.read_text()).items()}

    def add(self, key: str, found: Found) -> None:
        self.found[key] = found
        if self.path is not None:
            self.path.write_text(json.dumps({key: asdict(found) for key, found in self.found.items()}, indent=1))


def told(layout: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in layout.items())


def verdict(found: Found, condition: job.Condition) -> str:
    if found.error is not None:
        return f"does not run: {found.error}"
    parts = (found.losses, found.norms, found.weights)
    return f"agrees {max(parts):.0e}" if found.agrees(condition) else "differs: " + ", ".join(map(brief, parts))


def brief(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.0e}" if value < 1e-3 else f"{value:.2g}"


def table(found: Sequence[tuple[Row, dict[str, Found]]], names: Sequence[str]) -> tuple[str, list[str]]:
    """Markdown, and the errors that its letters stand for."""
    errors: list[str] = []
    lines = ["| layout | setting | held | " + " | ".join(names) + " |", "|-" * (3 + len(names)) + "|"]
    for (setting, layout), cells in found:
        words = []
        for name in names:
            if name not in cells:
                words.append("-")
            elif cells[name].error is not None:
                words.append(f"does not run ({numbered(errors, cells[name].error or '')})")
            else:
                words.append(verdict(cells[name], job.CONDITIONS[name]))
        held = next((f"{cell.held:.0%}" for cell in cells.values() if cell.error is None), "-")
        lines.append(f"| {told(layout)} | {setting or 'plan'} | {held} | " + " | ".join(words) + " |")
    return "\n".join(lines), errors


def numbered(errors: list[str], error: str) -> int:
    if error not in errors:
        errors.append(error)
    return errors.index(error) + 1


def section(found: Sequence[tuple[Row, dict[str, Found]]], names: Sequence[str]) -> str:
    """The table of an arm, and what stopped the cells that did not run."""
    text, errors = table(found, names)
    listed = "\n".join(f"{number}. `{error}`" for number, error in enumerate(errors, 1))
    return f"{text}\n\nDoes not run:\n\n{listed}" if listed else text


def fill(path: Path, sections: Mapping[str, str]) -> None:
    """Put each section between its marks in the page, whose other words are written by hand.

    Raises:
        SystemExit: the page lacks a mark.
    """
    text = path.read_text()
    for name, words in sections.items():
        first, last = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if first not in text or last not in text:
            raise SystemExit(f"{path} has no place for {name}")
        before, after = text.split(first)[0], text.split(last)[1]
        text = f"{before}{first}\n{words}\n{last}{after}"
    path.write_text(text)
