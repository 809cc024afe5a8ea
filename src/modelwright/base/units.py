"""Numbers as people write them: ``5M`` tokens, ``10m``, ``2GB``; and back.

A technique annotates a field with :data:`Count`, :data:`Seconds` or :data:`Bytes`; to Python these are plain
numbers, and a recipe may then write them with units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from modelwright.base.errors import ModelwrightError

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_SECONDS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1.0, "B": 1.0,
    "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_NUMBER = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")


@dataclass(frozen=True)
class Unit:
    """How a field is written by people: a parser and a description for messages and editors."""

    parse: Callable[[str], float]
    description: str
    pattern: str


def parse_count(text: str) -> int:
    """``"5M"`` -> 5000000; raises :class:`ModelwrightError` for what is no count."""
    return round(_parse(text, _COUNTS, "a count such as 500, 20k or 5M"))


def parse_seconds(text: str) -> float:
    """``"10m"`` -> 600.0; ``"1h30m"`` is understood; raises :class:`ModelwrightError` otherwise."""
    return _parse(text, _SECONDS, "a duration such as 90s, 10m or 1h30m")


def parse_bytes(text: str) -> int:
    """``"2GB"`` -> 2000000000, ``"2GiB"`` -> 2147483648; raises :class:`ModelwrightError` otherwise."""
    return round(_parse(text, _BYTES, "a size such as 500MB, 2GB or 2GiB"))


Count = Annotated[int, Unit(parse_count, "a count such as 500, 20k or 5M", r"^[0-9][0-9_.eE+-]*[kKMBGT]?$")]
Seconds = Annotated[
    float, Unit(parse_seconds, "a duration such as 90s, 10m or 1h30m", r"^([0-9.]+(ms|s|m|min|h|d)?)+$")
]
Bytes = Annotated[int, Unit(parse_bytes, "a size such as 500MB, 2GB or 2GiB", r"^[0-9.]+([kKMGT]i?)?B?$")]


def count_text(value: float) -> str:
    """``1234567`` -> ``"1.23M"``."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def seconds_text(value: float) -> str:
    """``75.0`` -> ``"1m15s"``, ``0.0123`` -> ``"12.3 ms"``."""
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def bytes_text(value: float) -> str:
    """``2500000`` -> ``"2.5 MB"``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _parse(text: str, units: Mapping[str, float], expected: str) -> float:
    total, end = 0.0, 0
    stripped = text.strip()
    while end < len(stripped):
        match = _NUMBER.match(stripped, end)
        if match is None or match[2] not in units:
            raise ModelwrightError(f"'{text}' is not {expected}")
        total += float(match[1].replace("_", "")) * units[match[2]]
        end = match.end()
    if not stripped:
        raise ModelwrightError(f"an empty text is not {expected}")
    return total
