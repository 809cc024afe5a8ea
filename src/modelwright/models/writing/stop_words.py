"""Stop words in a text that comes in pieces: found wherever they lie, and never let through."""

from __future__ import annotations

from collections.abc import Sequence

from modelwright.base.errors import ModelwrightError


class StopWords:
    """Lets a text through up to the first of some words; holds back what may be the beginning of one.

    The word that is complete first counts, as if the text came byte by byte: the result does not depend on how
    the text is cut into pieces.

    Args:
        words: none of them empty.

    Attributes:
        found: whether a word has come; nothing is let through any more.

    Raises:
        ModelwrightError: a word is empty.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        if not all(words):
            raise ModelwrightError("a stop word is empty", where="stop", remedy="leave it out")
        self.found = False
        self._words = tuple(words)
        self._held = b""

    def push(self, piece: bytes) -> bytes:
        """Take the next piece of the text; what can be told of it now."""
        if self.found:
            return b""
        text = self._held + piece
        first = min((place for word in self._words if (place := _place(text, word))), default=None)
        if first is not None:
            self.found, self._held = True, b""
            return text[: first[1]]
        held = self._beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> bytes:
        """What was held back, once nothing follows."""
        held, self._held = self._held, b""
        return held

    def _beginning(self, text: bytes) -> int:
        """Length of the longest end of ``text`` that begins a word."""
        longest = max((len(word) for word in self._words), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(word.startswith(text[-length:]) for word in self._words):
                return length
        return 0


def _place(text: bytes, word: bytes) -> tuple[int, int] | None:
    """Where ``word`` first ends and begins in ``text``."""
    begin = text.find(word)
    return None if begin < 0 else (begin + len(word), begin)
