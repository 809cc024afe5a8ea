"""Texts that are made tokens of: those that hold something, each content once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.documents import Texts

_SHOWN = 1000  # names of skipped texts in an event


@dataclass(frozen=True)
class Document:
    """A text that is to be learnt from or judged by.

    Attributes:
        name: of its source.
        bytes: how long it is.
        sha256: of its content.
    """

    name: str
    bytes: int
    sha256: str


class Distinct:
    """Texts without the empty ones and the copies: a copy could be learnt from and judged by at once.

    Args:
        texts: all of them; looked at once, now.

    Attributes:
        documents: those that are left, by name, in their order.
        unit: what one is called.

    Raises:
        ModelwrightError: a text cannot be read, or none is left.
    """

    def __init__(self, texts: Texts) -> None:
        self.documents: dict[str, Document] = {}
        self.unit = texts.unit
        self._texts = texts
        self._skipped: list[str] = []
        seen: set[str] = set()
        for name, text in texts:
            digest = hashlib.sha256(text).hexdigest()
            if not text or digest in seen:
                self._skipped.append(name)
                continue
            seen.add(digest)
            self.documents[name] = Document(name, len(text), digest)
        if not self.documents:
            raise ModelwrightError(
                f"there is no text to learn from: {_all(len(self._skipped), self.unit)} empty",
                where=texts.shown,
                remedy="choose other files",
            )

    @property
    def names(self) -> list[str]:
        """Of the documents, in their order."""
        return list(self.documents)

    @property
    def text_bytes(self) -> int:
        """Of all documents."""
        return sum(document.bytes for document in self.documents.values())

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The documents of ``names`` with their content, in their order.

        Raises:
            ModelwrightError: a text is not what it was.
        """
        for name, text in self._texts.only(set(names)):
            if hashlib.sha256(text).hexdigest() != self.documents[name].sha256:
                raise ModelwrightError("a text changed while it was read", where=name, remedy="start again")
            yield name, text

    def tell_skipped(self) -> None:
        """Say how many texts are left out."""
        if self._skipped:
            total = len(self._skipped) + len(self.documents)
            events.emit(
                "documents-skipped",
                f"{len(self._skipped)} of {total} {self.unit} are empty or copies of others",
                files=self._skipped[:_SHOWN],
            )


def _all(count: int, unit: str) -> str:
    return f"all {count} {unit} are" if count > 1 else f"the only {unit.removesuffix('s')} is"
