"""What differs between two recipes, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from modelwright.recipe.explain import plain
from modelwright.recipe.schema import Recipe
from modelwright.recipe.tree import joined


class Change(NamedTuple):
    """One value that is another."""

    path: str
    before: Any
    after: Any


def changes(old: Recipe, new: Recipe) -> list[Change]:
    """The values that differ, by dotted path; what one of the two lacks is ``None`` there."""
    before, after = dict(_values(plain(old), "")), dict(_values(plain(new), ""))
    return [
        Change(path, before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def told(found: Sequence[Change]) -> list[Change]:
    """Those worth naming: where a technique is another one, its name says it all."""
    switched = tuple(change.path.removesuffix(".use") for change in found if change.path.endswith(".use"))
    return [change for change in found if change.path.endswith(".use") or not below(change.path, switched)]


def below(path: str, parts: tuple[str, ...]) -> bool:
    """Whether ``path`` is one of ``parts`` of a recipe, or lies in one: ``saving.every`` lies in ``saving``."""
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _values(item, joined(path, key))
    else:
        yield path, value
