"""What the sources of a mixture must have in common, as far as their settings tell, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.data import DATA, TOKENIZERS


def check_techniques(techniques: Mapping[str, Any]) -> None:
    """Refuse what cannot be prepared and opened, and different contexts.

    Raises:
        ModelwrightError: names the source.
    """
    for name, technique in techniques.items():
        if not (is_dataclass(technique) and hasattr(technique, "prepare") and hasattr(technique, "open")):
            raise ModelwrightError(
                f"the source '{name}' cannot be mixed: it is no dataclass with prepare and open",
                where=f"sources.{name}.data",
                remedy=f"a class of your own needs both; listed are {', '.join(sorted(DATA.listing))}",
            )
    contexts = {name: context for name, each in techniques.items() if (context := getattr(each, "context", None))}
    if len(set(contexts.values())) > 1:
        shown = ", ".join(f"{context} in '{name}'" for name, context in contexts.items())
        raise ModelwrightError(f"sources differ in context: {shown}", where="sources", remedy="give all the same")


def check_tokenizers(techniques: Mapping[str, Any], origin: str | None) -> None:
    """Refuse tokenizers that are sure to differ.

    Args:
        techniques: sources by name.
        origin: the source whose tokenizer the others take, if one is named.

    Raises:
        ModelwrightError: sources would learn a tokenizer each, or one names another than it would be given.
    """
    found = {name: tokenizer for name, each in techniques.items() if (tokenizer := getattr(each, "tokenizer", None))}
    if origin is None:
        _check_none_learns(found)
        return
    if origin not in techniques:
        raise ModelwrightError(
            f"there is no source '{origin}'", where="tokenizer_from", remedy=nearest(origin, techniques)
        )
    if origin not in found:
        raise ModelwrightError(
            f"the source '{origin}' has no tokenizer", where="tokenizer_from", remedy=_instead(found)
        )
    for name in found.keys() - {origin}:
        _check_taker(name, techniques[name], origin, found[origin])


def takes_tokenizer(technique: Any) -> bool:
    """Whether a tokenizer can be given to the technique."""
    return "tokenizer" in {entry.name for entry in fields(technique)}


def _check_none_learns(found: Mapping[str, Any]) -> None:
    learning = [name for name, tokenizer in found.items() if _learns(tokenizer)]
    if learning and len(found) > 1:
        origin = next((name for name in found if name not in learning), learning[0])
        raise ModelwrightError(
            f"the source '{learning[0]}' would learn a tokenizer of its own: the same number would stand for other"
            " text in other sources",
            where="sources",
            remedy=f"tokenizer_from: {origin}, or give all the same  tokenizer: {{use: local, folder: ...}}",
        )


def _check_taker(name: str, technique: Any, origin: str, tokenizer: Any) -> None:
    if takes_tokenizer(technique):
        if technique.tokenizer != tokenizer and not _is_default(technique):
            raise ModelwrightError(
                f"the source '{name}' names a tokenizer of its own, but is to take that of '{origin}'",
                where=f"sources.{name}.data",
                remedy="leave it out there, or leave tokenizer_from out",
            )
    elif _learns(tokenizer):
        raise ModelwrightError(
            f"the source '{name}' brings a tokenizer of its own and cannot take the one that '{origin}' learns",
            where="tokenizer_from",
            remedy=f"tokenizer_from: {name}",
        )


def _learns(tokenizer: Any) -> bool:
    return TOKENIZERS.short_name(type(tokenizer)) == "bpe"


def _instead(names: Iterable[str]) -> str:
    known = ", ".join(names)
    return f"sources that have one: {known}" if known else "leave tokenizer_from out"


def _is_default(technique: Any) -> bool:
    """Whether its tokenizer is the one that its class takes where none is given."""
    entry = next(entry for entry in fields(technique) if entry.name == "tokenizer")
    return callable(entry.default_factory) and technique.tokenizer == entry.default_factory()
