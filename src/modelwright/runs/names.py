"""Names of runs: what may be one, and one for who gives none."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from modelwright.base.errors import ModelwrightError

_LONGEST = 150


def check_name(name: str) -> None:
    """Refuse what cannot be a folder's name everywhere, would hide, or looks like an option.

    Raises:
        ModelwrightError: with the reason.
    """
    reason = _fault(name)
    if reason:
        raise ModelwrightError(
            f"{name!r} cannot name a run: {reason}",
            where="name",
            remedy="letters, digits, '-', '_', '.' and spaces are fine: small-gpt-2",
        )


def fresh_name(verb: str) -> str:
    """``VERB-YYYYMMDD-HHMMSS-xxxx``, in local time."""
    return f"{verb}-{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _fault(name: str) -> str:
    if not name or name.isspace():
        return "it is empty"
    if "/" in name or "\\" in name or ":" in name:
        return "it has a path separator in it; the folder is given apart from the name"
    if name[0] in ".-":
        return f"it starts with '{name[0]}'"
    if not name.isprintable():
        return "it has control characters in it"
    if name != name.strip() or name.endswith("."):
        return "it starts or ends with a space or ends with a dot"
    if len(name.encode()) > _LONGEST:
        return f"it is longer than {_LONGEST} bytes"
    return "the name is kept for the index" if name.startswith("index.sqlite") else ""
