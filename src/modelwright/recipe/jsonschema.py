"""JSON Schema of recipes, so that editors complete and check them while they are typed."""

from __future__ import annotations

from dataclasses import is_dataclass
from inspect import cleandoc
from typing import Any, get_args

from pydantic import PydanticUserError, TypeAdapter

from modelwright.base.choice import Family
from modelwright.base.errors import MissingExtra
from modelwright.base.events import emit
from modelwright.base.units import Unit
from modelwright.recipe.explain import plain
from modelwright.recipe.hints import (
    REQUIRED,
    Slot,
    bare,
    default_of,
    family_of,
    is_list,
    is_mapping,
    members,
    names_only,
    slots,
    unit_of,
)
from modelwright.recipe.schema import Recipe

DRAFT = "https://json-schema.org/draft/2020-12/schema"
# Readers of YAML 1.1, PyYAML among them, take 1e-3 for text: they want a point and a sign, as in 1.0e-3.
EXPONENT = r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"
OWN = r"^[\w.]+:[\w.]+$"
Schema = dict[str, Any]


def editor_line(location: str) -> str:
    """The comment that makes editors use the schema; it goes at the top of a recipe.

    Args:
        location: a path or an address of the schema's file.
    """
    return f"# yaml-language-server: $schema={location}"


def json_schema(schema: type = Recipe) -> Schema:
    """The JSON Schema (draft 2020-12) of recipe files, with every listed technique.

    A technique whose optional part is not installed is accepted with any fields, and an event says so.
    """
    definitions: dict[str, Schema] = {}
    root = _record(schema, definitions)
    hint = f"Save this as recipe.schema.json and begin a recipe with the line: {editor_line('recipe.schema.json')}"
    return {"$schema": DRAFT, "$comment": hint, "title": "modelwright recipe", **root, "$defs": definitions}


def _record(cls: type, definitions: dict[str, Schema]) -> Schema:
    found = slots(cls)
    properties = {name: _property(slot, definitions) for name, slot in found.items()}
    required = [name for name, slot in found.items() if slot.default is REQUIRED]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if getattr(cls, "exactly_one", False):
        schema |= {"minProperties": 1, "maxProperties": 1}
    return {**schema, **({"required": required} if required else {}), **_description(_summary(cls))}


def _property(slot: Slot, definitions: dict[str, Schema]) -> Schema:
    usual = _usual(slot)
    schema = _value(slot.hint, definitions)
    if (family := family_of(slot.hint)) and is_dataclass(usual):
        # The fields of the default technique may stand without `use`.
        schema = {"anyOf": [schema, _record(type(usual), definitions)]}
        return {**schema, **_description(slot.doc), "default": family.short_name(type(usual))}
    default = {} if usual is REQUIRED or is_dataclass(usual) else {"default": plain(usual, slot.hint)}
    return {**schema, **_description(slot.doc), **default}


def _usual(slot: Slot) -> Any:
    """The default, if this installation can make it."""
    try:
        return default_of(slot)
    except MissingExtra as error:
        emit("schema-incomplete", f"'{slot.name}' is shown without default: {error.what}", remedy=error.remedy)
        return REQUIRED


def _value(hint: Any, definitions: dict[str, Schema]) -> Schema:
    if family := family_of(hint):
        own = {"type": "string", "pattern": OWN}
        return {"anyOf": [_names(family), own]} if names_only(hint) else _family(family, definitions)
    if len(members(hint)) > 1:
        return {"anyOf": [_value(part, definitions) for part in members(hint)]}
    if unit := unit_of(hint):
        return _unit(unit, bare(hint))
    if is_dataclass(bare(hint)):
        return _record(bare(hint), definitions)
    if is_list(hint):
        return _list(hint, definitions)
    if is_mapping(hint):
        kind = (get_args(bare(hint)) or (str, Any))[1]
        return {"type": "object", "additionalProperties": _value(kind, definitions)}
    return _leaf(hint)


def _leaf(hint: Any) -> Schema:
    if hint in (Any, object):
        return {}
    try:
        schema = TypeAdapter(hint).json_schema()
    except PydanticUserError:
        return {}
    if schema.get("type") == "number":
        return {**schema, "type": ["number", "string"], "pattern": EXPONENT}
    return schema


def _list(hint: Any, definitions: dict[str, Schema]) -> Schema:
    kinds = get_args(bare(hint)) or (Any, ...)
    if Ellipsis in kinds or (bare(hint).__origin__ if get_args(bare(hint)) else None) is not tuple:
        return {"type": "array", "items": _value(kinds[0], definitions)}
    items = [_value(kind, definitions) for kind in kinds]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _unit(unit: Unit, kind: type) -> Schema:
    number = {"type": "integer" if kind is int else "number", "minimum": 0}
    text = {"type": "string", "pattern": unit.pattern}
    return {"anyOf": [number, text], "description": unit.description}


def _family(family: Family, definitions: dict[str, Schema]) -> Schema:
    """A reference to the family's choices; they are written once, so a choice may hold choices."""
    if family.name not in definitions:
        definitions[family.name] = {}
        choices = [_technique(family, name, definitions) for name in family.listing]
        definitions[family.name] |= {"anyOf": [_names(family), *choices, *_own()]}
    return {"$ref": f"#/$defs/{family.name}"}


def _names(family: Family) -> Schema:
    return {"enum": list(family.listing), "description": f"a listed {family.name}"}


def _own() -> list[Schema]:
    use = {"type": "string", "pattern": OWN, "description": "a class of your own, package.module:Class"}
    return [use, {"type": "object", "properties": {"use": use}, "required": ["use"]}]


def _technique(family: Family, name: str, definitions: dict[str, Schema]) -> Schema:
    key = f"{family.name}.{name}"
    use: Schema = {"const": name}
    try:
        cls: Any = family.resolve(name)
    except MissingExtra as error:
        emit("schema-incomplete", f"the fields of '{name}' are not checked: {error.what}", remedy=error.remedy)
        definitions[key] = {"type": "object", "properties": {"use": use}, "required": ["use"]}
        return {"$ref": f"#/$defs/{key}"}
    record = _record(cls, definitions)
    record["properties"] = {"use": use | _description(_summary(cls)), **record["properties"]}
    record["required"] = ["use", *record.get("required", [])]
    definitions[key] = record
    return {"$ref": f"#/$defs/{key}"}


def _summary(cls: type) -> str:
    if (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        return ""
    return cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")


def _description(text: str) -> Schema:
    return {"description": text} if text else {}
