"""Secrets never reach a file: values are blanked by the name they stand under and by what they look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

BLANK = "[secret]"

_VARIABLE = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|SESSION|PRIVATE|SIGNATURE|BEARER", re.IGNORECASE
)
# Names in text are judged by their last word, so that ``tokens=5M`` and ``tokenizer=bpe`` stay readable.
_LAST_WORDS = re.compile(
    r"(?:api|access|secret|private|auth)?key|token|pass|pwd|passphrase|auth|authori[sz]ation|bearer", re.IGNORECASE
)
_ANYWHERE = re.compile(r"secret|passw(?:or)?d|credential|cookie", re.IGNORECASE)

# Possessive quantifiers and left boundaries keep every search linear, whatever the text.
_ASSIGNING = re.compile(r"(?<![\w.-])([\w.-]++)[\"']?[ \t]*+[=:][ \t]*+(?:(?:bearer|basic)[ \t]++)?", re.IGNORECASE)
_FLAG = re.compile(r"(?<![\w.-])(--?[\w.]++[\w.-]*+)[ \t]++(?=[^\s-])")
_VALUE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&,;}\]]+")
_BEARER = re.compile(r"(?<![\w-])(bearer[ \t]++)[\w.~+/-]{8,}=*", re.IGNORECASE)
_URL = re.compile(r"://[^\s/]+@")
_KNOWN = re.compile(
    r"(?<![\w-])(?:hf_\w{16,}|sk-[\w-]{16,}|gh[opsur]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{8,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*)"
)


def names_a_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return _VARIABLE.search(variable) is not None


def scrub_text(text: str) -> str:
    """``text`` with passwords in addresses, ``token=...``, ``--password ...`` and known tokens blanked."""
    text = _URL.sub(f"://{BLANK}@", text)
    text = _blank_after(_ASSIGNING, text)
    text = _blank_after(_FLAG, text)
    text = _BEARER.sub(rf"\1{BLANK}", text)
    return _KNOWN.sub(BLANK, text)


def scrub_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without its secrets; the value may follow its name as an argument of its own."""
    kept, secret_follows = [], False
    for argument in arguments:
        kept.append(BLANK if secret_follows else _scrub_argument(argument))
        secret_follows = argument.startswith("-") and _is_secret(argument)
    return kept


def scrub(value: Any) -> Any:
    """JSON-ready data with every text scrubbed, and texts under a secret's name blanked."""
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, Mapping):
        return {key: _scrub_entry(str(key), entry) for key, entry in value.items()}
    return [scrub(entry) for entry in value] if isinstance(value, list) else value


def _scrub_argument(argument: str) -> str:
    name, assigned, _ = argument.partition("=")
    if assigned and _is_secret(name):
        return f"{name}={BLANK}"  # the whole rest of the argument, spaces too
    return scrub_text(argument)


def _scrub_entry(name: str, value: Any) -> Any:
    secret = isinstance(value, str) and _is_secret(name)
    return BLANK if secret else scrub(value)


def _is_secret(name: str) -> bool:
    last_word = re.split(r"[._-]", name.strip("-"))[-1]
    return _LAST_WORDS.fullmatch(last_word) is not None or _ANYWHERE.search(name) is not None


def _blank_after(opening: re.Pattern[str], text: str) -> str:
    """Blank the value behind each opening whose name is a secret's."""
    kept, end = [], 0
    for match in opening.finditer(text):
        value = _VALUE.match(text, match.end()) if _is_secret(match[1]) and match.start() >= end else None
        if value is not None:
            kept += [text[end : match.end()], BLANK]
            end = value.end()
    return "".join([*kept, text[end:]])
