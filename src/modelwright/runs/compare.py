"""Runs side by side: what was asked differently, what came out, what they ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.runs.directory import Run

Line = tuple[str, list[Any]]

_UNIMPORTANT = ("argv", "git.changed", "format")
_MISSING = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table: each line is a key and one value a run, ``None`` where a run has none.

    Attributes:
        runs: the names, in the order of the values.
        recipe: keys of the recipes that differ, nested ones with dots.
        summary: every result.
        environment: facts about machine and software that differ.
    """

    runs: list[str]
    recipe: list[Line]
    summary: list[Line]
    environment: list[Line]

    def to_json(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        return {
            "runs": self.runs,
            "recipe": dict(self.recipe),
            "summary": dict(self.summary),
            "environment": dict(self.environment),
        }


def compare(runs: Sequence[Run]) -> Comparison:
    """Set runs side by side.

    Raises:
        ModelwrightError: a run's files are damaged.
    """
    return Comparison(
        runs=[run.name for run in runs],
        recipe=_differing(_lines([_recipe(run) for run in runs])),
        summary=_lines([flatten(run.record.summary) for run in runs]),
        environment=_differing(_lines([_environment(run) for run in runs])),
    )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists are values."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat


def parse_recipe(run: Run) -> Any:
    """The recipe as plain data; ``None`` where none was written.

    Raises:
        ModelwrightError: it is not YAML.
    """
    try:
        return yaml.safe_load(run.recipe())
    except yaml.YAMLError as error:
        raise ModelwrightError(f"the recipe is not YAML: {error}", where=str(run.recipe_path)) from error


def _recipe(run: Run) -> dict[str, Any]:
    if not run.recipe_path.exists():
        emit("recipe-missing", f"{run.name} has no recipe to compare", run=run.name)
    return flatten(parse_recipe(run))


def _environment(run: Run) -> dict[str, Any]:
    facts = flatten(run.environment())
    return {key: value for key, value in facts.items() if key not in _UNIMPORTANT}


def _lines(tables: Sequence[Mapping[str, Any]]) -> list[Line]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return [(key, [table.get(key, _MISSING) for table in tables]) for key in keys]


def _differing(lines: Sequence[Line]) -> list[Line]:
    return [(key, values) for key, values in lines if any(value != values[0] for value in values)]
