"""A configured technique as plain data, as a plan keeps it, and back: its name, or its name with its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError


def written(technique: Any, family: Family) -> Any:
    """The technique as JSON-ready values, which :func:`chosen` turns back: its name alone where nothing is set.

    Args:
        technique: an instance of a dataclass, or what holds ``use`` (an import path) and ``arguments``.
        family: it belongs to; so may techniques in its fields to families of theirs.
    """
    if hasattr(technique, "use") and hasattr(technique, "arguments"):
        name, given = technique.use, dict(technique.arguments)
    else:
        cls = type(technique)
        name, given = family.short_name(cls), dict(_changed(technique, _families(cls)))
    return {"use": name, **given} if given else name


def chosen(value: Any, family: Family) -> Any:
    """The technique that :func:`written` wrote.

    Raises:
        ModelwrightError: the family has no such technique, or it does not take these settings.
    """
    name, given = (value.get("use"), value) if isinstance(value, Mapping) else (value, {})
    if not isinstance(name, str):
        raise ModelwrightError(
            f"this names no {family.name}: {value!r}", remedy=f"known: {', '.join(sorted(family.listing))}"
        )
    technique = family.resolve(name)
    families = _families(technique)
    settings = {
        key: chosen(setting, families[key]) if key in families and setting is not None else _frozen(setting)
        for key, setting in given.items()
        if key != "use"
    }
    try:
        return technique(**settings)
    except TypeError as error:
        raise ModelwrightError(f"the {family.name} '{name}' refused its settings: {error}") from error


def _changed(technique: Any, families: Mapping[str, Family]) -> Iterator[tuple[str, Any]]:
    for entry in fields(technique):
        value = getattr(technique, entry.name)
        if entry.init and value != _usual(entry):
            nested = entry.name in families and value is not None
            yield entry.name, written(value, families[entry.name]) if nested else value


def _usual(entry: Any) -> Any:
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _families(technique: Any) -> dict[str, Family]:
    if not is_dataclass(technique):
        return {}
    hints = get_type_hints(technique, include_extras=True)
    found = {name: _family_of(hint) for name, hint in hints.items()}
    return {name: family for name, family in found.items() if family is not None}


def _family_of(hint: Any) -> Family | None:
    nested = (_family_of(part) for part in get_args(hint))
    own = (item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Family))
    return next((family for family in (*own, *nested) if family is not None), None)


def _frozen(setting: Any) -> Any:
    return tuple(_frozen(part) for part in setting) if isinstance(setting, list) else setting
