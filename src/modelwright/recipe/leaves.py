"""One word of a recipe to the value that a field wants, or a refusal that says what was expected."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.recipe.hints import Slot, bare, described, unit_of
from modelwright.recipe.scalars import Scalar, scalar

_STRICT = (int, float, bool, str)
_TRUTHS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def leaf_value(value: Scalar, slot: Slot) -> Any:
    """The value as the slot's annotation wants it.

    Raises:
        ModelwrightError: it is something else; the place is not known here.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelwrightError(f"'{slot.name}' must be finite, not {shown(value)}", remedy=advice(slot))
    if get_origin(bare(slot.hint)) is Literal:
        return _choice(value, slot)
    return _checked(_converted(value, slot), value, slot)


def refusal(found: str, slot: Slot, remedy: str = "") -> ModelwrightError:
    """The error for a value of the wrong kind."""
    return ModelwrightError(f"'{slot.name}' must be {described(slot.hint)}, not {found}", remedy=remedy or advice(slot))


def advice(slot: Slot) -> str:
    """What the field means, and its default."""
    if not slot.doc:
        return ""
    simple = slot.default is None or isinstance(slot.default, int | float | str | tuple)
    default = f" (default: {shown(slot.default)})" if simple and slot.default != () else ""
    return f"'{slot.name}' is: {slot.doc.rstrip('.')}{default}"


def shown(value: object) -> str:
    """A value as a message names it: ``the text 'abc'``, ``true``, ``3.5``."""
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choice(value: Scalar, slot: Slot) -> Any:
    choices = get_args(bare(slot.hint))
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    hint = nearest(value, map(str, choices)) if isinstance(value, str) and len(choices) > 1 else ""
    close = hint if hint.startswith("did you mean") else ""
    raise refusal(shown(value), slot, close)


def _converted(value: Scalar, slot: Slot) -> Scalar:
    kind, unit = bare(slot.hint), unit_of(slot.hint)
    if unit and isinstance(value, str):
        try:
            value = unit.parse(value)
        except ModelwrightError:
            raise refusal(shown(value), slot) from None
    if unit and isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        raise refusal(shown(value), slot)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, str) and isinstance(scalar(value), int | float):
        return scalar(value)
    return value


def _checked(value: Scalar, written: Scalar, slot: Slot) -> Any:
    kind = bare(slot.hint)
    if kind in (Any, object):
        return value
    try:
        return TypeAdapter(slot.hint).validate_python(value, strict=kind in _STRICT or None)
    except PydanticUserError:
        return value
    except ValidationError as error:
        problem = error.errors()[0]
    if problem["type"].endswith(("_type", "_parsing")) or problem["type"] == "is_instance_of":
        raise refusal(shown(written), slot, _remedy(written, kind))
    what = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    raise ModelwrightError(f"'{slot.name}' is {shown(written)}, but it {what}", remedy=advice(slot))


def _remedy(value: Scalar, kind: object) -> str:
    if kind is bool and isinstance(value, str) and value.lower() in _TRUTHS:
        return f"write {_TRUTHS[value.lower()]}"
    if kind is str and value is not None:
        return f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if kind is int and isinstance(value, str) and isinstance(scalar(value), int):
        return f"write it without quotes: {value}"
    return ""
