"""What every source of tokens asks of a tokenizer's configuration."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import asdict, is_dataclass
from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.data import TOKENIZERS


def check_tokenizer(tokenizer: object) -> None:
    """Refuse what is no technique.

    Raises:
        ModelwrightError: it is no dataclass with ``train``.
    """
    if not is_dataclass(tokenizer) or isinstance(tokenizer, type) or not hasattr(tokenizer, "train"):
        raise ModelwrightError(
            f"a {type(tokenizer).__name__} is no tokenizer",
            where="tokenizer",
            remedy="pass a technique such as Bpe(vocabulary=2048)",
        )


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """What decides which tokens a text becomes: the technique, its fields, and the code behind both.

    A listed technique says with ``library`` what else decides: the version of a library, the hash of a file.
    """
    kind = type(tokenizer)
    use = f"{kind.__module__}:{kind.__qualname__}"
    code = getattr(tokenizer, "library", "") if use in TOKENIZERS.listing.values() else _code_hash(kind)
    return {"use": use, **asdict(tokenizer)} | ({"code": code} if code else {})


def utf8(text: str) -> bytes:
    """A text in UTF-8. Bytes that were none when a file was read are the same again; half a pair, as JSON can
    hold one, becomes the bytes that would stand for it.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _code_hash(kind: type) -> str:
    """A hash of the module that a class of the user's own stands in; ``""`` where its text is not to be had."""
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()
