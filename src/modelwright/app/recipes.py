"""The verb ``recipe``: show what a recipe means, and the schema that lets editors complete and check recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from modelwright.base.files import write_text
from modelwright.recipe import editor_line, explain, json_schema, load, shipped


def show(source: str, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Every value of the resolved recipe with its origin, JSON-ready."""
    return [{"path": row.path, "value": row.value, "origin": row.origin} for row in explain(load(source, overrides))]


def shown(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """The resolved recipe as a table; what was left at its default is dim."""
    made = Table("field", "value", "from", box=None, pad_edge=False)
    for row in rows:
        style = "dim" if row["origin"] == "default" else ""
        made.add_row(row["path"], escape(str(row["value"])), escape(row["origin"]), style=style)
    return made


def schema(path: Path | None) -> str:
    """The JSON Schema; written to ``path`` where one is given, and then the comment line that refers to it."""
    text = json.dumps(json_schema(), indent=2)
    if path is None:
        return text
    write_text(path, text + "\n")
    return editor_line(str(path))


def list_recipes() -> list[dict[str, str]]:
    """The shipped recipes by name, and what each is: the first line of its head. JSON-ready."""
    return [{"name": name, "what": text.partition("\n")[0].lstrip("# ")} for name, text in sorted(shipped().items())]


def listed(rows: Sequence[dict[str, str]]) -> RenderableType:
    """The shipped recipes as a table."""
    made = Table("recipe", "what", box=None, pad_edge=False)
    for row in rows:
        made.add_row(row["name"], escape(row["what"]))
    return made
