"""Values as JSON can hold them: numbers of any library become plain, non-finite floats become words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(value: Any) -> Any:
    """``value`` as JSON-ready data; NaN and infinities as ``"nan"``, ``"inf"``, ``"-inf"``.

    Scalars of numpy and torch become Python numbers; what JSON cannot hold becomes its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item())
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def number(value: Any) -> Any:
    """The float behind the words of :func:`plain`; anything else as it is."""
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _word(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"
