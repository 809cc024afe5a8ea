"""The resolved recipe: every value with its origin, and as YAML that loads back to the same recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from modelwright.base.choice import Family
from modelwright.recipe.foreign import Foreign
from modelwright.recipe.hints import bare, default_of, family_of, is_list, is_mapping, members, slots
from modelwright.recipe.load import Loaded
from modelwright.recipe.scalars import scalar
from modelwright.recipe.tree import joined

HEAD = "# A resolved modelwright recipe: every value is written out, so that it means the same tomorrow.\n"


class Row(NamedTuple):
    """One line of ``recipe show``."""

    path: str
    value: Any
    origin: str


def explain(loaded: Loaded[Any]) -> list[Row]:
    """Every value of a recipe, and where it comes from: ``file:line``, ``command line`` or ``default``."""
    rows = _flat(plain(loaded.recipe), "")
    return [Row(path, value, loaded.origin(path)) for path, value in rows]


def to_yaml(recipe: object) -> str:
    """The recipe as YAML; loading it gives an equal recipe."""
    body = yaml.dump(plain(recipe, brief=True), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return HEAD + body


def plain(value: Any, hint: Any = None, *, brief: bool = False) -> Any:
    """A typed value as the mappings, lists and words that a recipe would write.

    Args:
        value: a dataclass, or anything that stands in a field of one.
        hint: the field's annotation; it tells the names of techniques.
        brief: leave out what is none by default.
    """
    family = _family_in(hint)
    if isinstance(value, Foreign):
        return {"use": value.use, **value.arguments}
    if is_dataclass(value) and not isinstance(value, type):
        named = {"use": family.short_name(type(value))} if family else {}
        return {**named, **_fields(value, brief)}
    if isinstance(value, tuple | list):
        return [plain(item, part, brief=brief) for item, part in zip(value, _parts(hint, value), strict=True)]
    if isinstance(value, Mapping):
        kind = (get_args(_sole(hint)) or (str, Any))[1]
        return {key: plain(item, kind, brief=brief) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _fields(value: Any, brief: bool) -> dict[str, Any]:
    found = {}
    for name, slot in slots(type(value)).items():
        item = getattr(value, name)
        if not (brief and item is None and default_of(slot) is None):
            found[name] = plain(item, slot.hint, brief=brief)
    return found


def _family_in(hint: Any) -> Family | None:
    return next((family for part in members(hint) if (family := family_of(part))), None)


def _sole(hint: Any) -> Any:
    """The alternative that holds others: the list in ``tuple[int, ...] | None``."""
    return next((bare(part) for part in members(hint) if is_list(part) or is_mapping(part)), bare(hint))


def _parts(hint: Any, value: Any) -> list[Any]:
    kinds = get_args(_sole(hint)) or (Any,)
    return list(kinds) if len(kinds) == len(value) and Ellipsis not in kinds else [kinds[0]] * len(value)


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not path):
        return [row for key, item in value.items() for row in _flat(item, joined(path, key))]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [row for index, item in enumerate(value) for row in _flat(item, joined(path, index))]
    return [(path, value)]


class _Dumper(yaml.SafeDumper):
    """Writes text so that the rules of YAML 1.1 and 1.2 both read it back as text, and shares nothing."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if scalar(value) == value and value == value.strip() and value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
