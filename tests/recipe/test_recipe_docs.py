"""The documentation of recipes has a line for every field, and it says what the field's own docstring says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

from modelwright.recipe import Recipe
from modelwright.recipe.explain import plain
from modelwright.recipe.hints import REQUIRED, Slot, bare, default_of, is_list, is_mapping, members, slots

DOCS = Path(__file__).parents[2] / "docs" / "recipe.md"
HEAD = "| field | usual value | what |"
QUOTE = '"'


def rows(cls: type = Recipe, above: str = "") -> Iterator[str]:
    for name, slot in slots(cls).items():
        path = f"{above}{name}"
        yield f"| `{path}` | {usual(slot)} | {' '.join(slot.doc.rstrip('.').split())} |"
        for part in members(slot.hint):
            below, inside = record_in(part)
            if inside is not None:
                yield from rows(inside, f"{path}{below}.")


def record_in(hint: Any) -> tuple[str, type | None]:
    """What stands between the field's name and the fields of the record that it holds, and that record."""
    part, below = bare(hint), ""
    if is_list(hint):
        part, below = bare(get_args(part)[0]), "[]"
    elif is_mapping(hint):
        part, below = bare(get_args(part)[1]), ".NAME"
    return below, part if is_dataclass(part) and isinstance(part, type) else None


def usual(slot: Slot) -> str:
    value = default_of(slot)
    if value is REQUIRED:
        return "required"
    shown = plain(value, slot.hint)
    if isinstance(shown, dict):
        shown = shown.get("use", {})
    return f"`{json.dumps(shown).strip(QUOTE)}`" if shown not in ([], {}) else ""


def test_every_field_has_its_line_and_no_other() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    begin = lines.index(HEAD) + 2
    assert lines[begin : lines.index("", begin)] == list(rows())


def test_the_rows_go_into_what_fields_hold() -> None:
    paths = {row.split("`")[1] for row in rows()}
    assert {"seed", "saving.keep_best", "groups[].lr", "updates.NAME.every", "start.run", "watch.samples"} <= paths
