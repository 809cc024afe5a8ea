"""Small pieces of HTML. Every function takes plain text and gives safe markup; nothing else makes markup."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

from modelwright.base.units import bytes_text, seconds_text
from modelwright.runs.plain import plain

Markup = str

_NOTHING = "\u2013"
_IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def text(value: object) -> Markup:
    """Any text, escaped for content and attributes."""
    return html.escape(str(value), quote=True)


def tag(name: str, content: Markup, **attributes: str) -> Markup:
    """An element; a trailing underscore of an attribute's name is dropped (``class_``)."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{content}</{name}>"


def script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)


def table(columns: Sequence[str], rows: Sequence[Sequence[Markup]], numeric: Sequence[int] = ()) -> Markup:
    """A table of cells that are markup already; the ``numeric`` columns are set to the right."""
    head = "".join(_cell("th", text(name), place in numeric, scope="col") for place, name in enumerate(columns))
    body = "".join(_line(row, numeric) for row in rows)
    whole = tag("table", f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=", ".join(columns))


def pairs(entries: Sequence[tuple[str, Markup]]) -> Markup:
    """Names and values, one pair a line."""
    lines = "".join(f"<div>{tag('dt', text(name))}{tag('dd', value)}</div>" for name, value in entries)
    return tag("dl", lines, class_="pairs")


def shown(name: str, value: object) -> str:
    """A value as people read it; its name tells seconds and bytes."""
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(name, value)
    return json.dumps(plain(value), ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _number(name: str, value: float) -> str:
    if not math.isfinite(value):
        return _NOTHING if math.isnan(value) else str(value)
    if name.endswith("seconds"):
        return seconds_text(value)
    if name.endswith("bytes"):
        return bytes_text(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _line(row: Sequence[Markup], numeric: Sequence[int]) -> Markup:
    first = _cell("th", row[0], 0 in numeric, scope="row") if row else ""
    rest = (_cell("td", cell, place in numeric) for place, cell in enumerate(row[1:], start=1))
    return tag("tr", first + "".join(rest))


def _cell(name: str, content: Markup, numeric: bool, **attributes: str) -> Markup:
    return tag(name, content, **attributes, **({"class_": "number"} if numeric else {}))
