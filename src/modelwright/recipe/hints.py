"""Annotations of dataclass fields: what they allow, in words and for editors."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Unit
from modelwright.recipe.tree import joined

_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Path: "a path",
    Any: "any value",
    object: "any value",
}
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")
REQUIRED = object()
"""The default of a field that must be given."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A field that waits for a value.

    Attributes:
        path: dotted path in the recipe.
        hint: what may stand here, an annotation.
        doc: what the field means, from the class's docstring.
        default: its value when nothing is given, or ``REQUIRED``.
    """

    path: str
    hint: Any
    doc: str = ""
    default: Any = REQUIRED

    @property
    def name(self) -> str:
        """The last part of the path that is a word."""
        words = [part for part in self.path.split(".") if not part.isdecimal()]
        return words[-1] if words else "recipe"

    def part(self, name: object, hint: Any) -> Slot:
        """The slot of an item inside this one."""
        return replace(self, path=joined(self.path, name), hint=hint, default=REQUIRED)

    def argument(self, name: str, hint: Any) -> Slot:
        """The slot of an argument of what this one names."""
        return Slot(path=joined(self.path, name), hint=hint)

    def of(self, hint: Any) -> Slot:
        """The same slot for a narrower annotation."""
        return replace(self, hint=hint)


def slots(cls: type, path: str = "") -> dict[str, Slot]:
    """The fields of a dataclass that its constructor takes, by name.

    Raises:
        ModelwrightError: an annotation of the class names something that does not exist.
    """
    return {name: replace(slot, path=joined(path, name)) for name, slot in _slots(cls).items()}


def default_of(slot: Slot) -> Any:
    """The slot's default as a value, made anew where a factory makes it."""
    return slot.default() if isinstance(slot.default, _Factory) else slot.default


def family_of(hint: Any) -> Family | None:
    """The family behind ``Annotated[object, FAMILY]``."""
    return next((item for item in _metadata(hint) if isinstance(item, Family)), None)


def names_only(hint: Any) -> bool:
    """Whether only the name of a technique stands here: ``Annotated[str, FAMILY]``."""
    return family_of(hint) is not None and bare(hint) is str


def unit_of(hint: Any) -> Unit | None:
    """The unit behind ``Count``, ``Seconds`` or ``Bytes``."""
    return next((item for item in _metadata(hint) if isinstance(item, Unit)), None)


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of ``A | B``; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def bare(hint: Any) -> Any:
    """The type without ``Annotated``."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_list(hint: Any) -> bool:
    """Whether a list may stand here."""
    return (get_origin(bare(hint)) or bare(hint)) in (tuple, list, Sequence)


def is_mapping(hint: Any) -> bool:
    """Whether a mapping with free keys may stand here."""
    return (get_origin(bare(hint)) or bare(hint)) in (dict, Mapping)


def is_simple(hint: Any) -> bool:
    """Whether a recipe can write every value of this annotation."""
    kind = bare(hint)
    if len(members(kind)) > 1 or is_list(kind) or is_mapping(kind):
        parts = members(kind) if len(members(kind)) > 1 else get_args(kind)
        return all(part is Ellipsis or is_simple(part) for part in parts)
    if get_origin(kind) is Literal:
        return True
    return kind in _WORDS or is_dataclass(kind)


def described(hint: Any) -> str:
    """The annotation in words: ``a number or null``."""
    if (family := family_of(hint)) and names_only(hint):
        return f"the name of a {family.name}"
    if family:
        return f"the name of a technique ({family.name}), or  use: NAME  with its fields"
    if unit := unit_of(hint):
        return unit.description
    if len(members(hint)) > 1:
        return " or ".join(described(part) for part in members(hint))
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if is_list(hint):
        return "a list"
    if is_mapping(hint) or is_dataclass(bare(hint)):
        return "a mapping (name: value)"
    kind = bare(hint)
    return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def documented(cls: type) -> dict[str, str]:
    """What the ``Attributes:`` section of a class (and of its bases) says of each field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _attributes(base.__doc__ or "")
    return {name: text.replace("``", "") for name, text in found.items()}


@dataclass(frozen=True)
class _Factory:
    make: Any

    def __call__(self) -> Any:
        return self.make()


@cache
def _slots(cls: type) -> dict[str, Slot]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        raise ModelwrightError(
            f"the annotations of '{cls.__qualname__}' cannot be read: {error}",
            remedy="import the names at the top of its module, not under TYPE_CHECKING",
        ) from error
    docs = documented(cls)
    return {
        entry.name: Slot(path=entry.name, hint=hints[entry.name], doc=docs.get(entry.name, ""), default=_default(entry))
        for entry in fields(cls)
        if entry.init
    }


def _default(entry: Any) -> Any:
    if entry.default_factory is not MISSING:
        return _Factory(entry.default_factory)
    return REQUIRED if entry.default is MISSING else entry.default


def _metadata(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ()


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("Attributes:")
    found: dict[str, str] = {}
    names: list[str] = []
    indent: int | None = None
    for line in section.splitlines()[1:]:
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        if not line.strip() or depth < indent:
            break
        if match := _ENTRY.fullmatch(line.strip()) if depth == indent else None:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
