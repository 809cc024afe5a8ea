"""Plain words of YAML to values, as YAML 1.2 has it: ``3e-4`` is a number, ``no`` and ``1:30`` are text.

PyYAML follows YAML 1.1, where those are text, ``False`` and ``90``; editors follow 1.2, and so do recipes.
"""

from __future__ import annotations

import re

Scalar = None | bool | int | float | str

_WORDS: dict[str, Scalar] = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,300}|0x[0-9a-fA-F]{1,200}|0o[0-7]{1,200}")
_FLOAT = re.compile(r"[-+]?((\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)")
_UNBOUNDED = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def scalar(word: str) -> Scalar:
    """The value of a plain (unquoted) word."""
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        digits = word.replace("_", "")
        return int(digits, 0) if digits[:2] in ("0x", "0o") else int(digits)
    if _FLOAT.fullmatch(word):
        return float(word.replace("_", ""))
    if match := _UNBOUNDED.fullmatch(word):
        return float("nan") if match[1] is None else float(f"{match[1]}inf")
    return word
