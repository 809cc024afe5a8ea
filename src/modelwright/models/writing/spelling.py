"""Tokens to text, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_NEAR = 8
_UNFINISHED = "\ufffd".encode()


class Decoder(Protocol):
    """The half of a tokenizer that is needed here."""

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ``tokens``."""
        ...


class Spelling:
    """What each next token adds to a text.

    In some vocabularies (SentencePiece, WordPiece) it depends on the tokens before: a word that begins the text has
    no space before it, and a character of several tokens is none until its last. So the tokens next to each other
    are decoded together, and what is new of them is told.

    Args:
        tokenizer: decodes.
        before: the tokens that the text follows.
    """

    def __init__(self, tokenizer: Decoder, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._near = list(before[-_NEAR:])
        self._told = tokenizer.decode(self._near)

    def push(self, token: int) -> bytes:
        """Take the next token; what can be told of it now."""
        self._near.append(token)
        text = self._tokenizer.decode(self._near)
        if text.endswith(_UNFINISHED):
            return b""
        new = text[len(self._told) :]
        if len(self._near) > 2 * _NEAR:
            del self._near[:-_NEAR]
            text = self._tokenizer.decode(self._near)
        self._told = text
        return new

    def rest(self) -> bytes:
        """What was held back, once nothing follows."""
        held = self._tokenizer.decode(self._near)[len(self._told) :]
        self._told += held
        return held
