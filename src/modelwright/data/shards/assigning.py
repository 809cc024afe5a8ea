"""Which document goes to which shard: decided by their order and size alone, before there are any tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.documents import Texts


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


@dataclass(frozen=True)
class Scanned:
    """What a look at all texts found.

    Attributes:
        documents: in their order.
        skipped: names of those that are empty or copies of others: a copy could be learnt from and judged by.
    """

    documents: tuple[Document, ...]
    skipped: tuple[str, ...]


def scan(texts: Texts) -> Scanned:
    """Look at every text once.

    Raises:
        ModelwrightError: a text cannot be read, or there are none.
    """
    documents, skipped, seen = [], [], set()
    for name, text in texts:
        digest = hashlib.sha256(text).digest()
        if not text or digest in seen:
            skipped.append(name)
            continue
        seen.add(digest)
        documents.append(Document(name, len(text), digest.hex()))
    if not documents:
        raise ModelwrightError(
            f"there is no text to make tokens of: all {len(skipped)} {texts.unit} are empty",
            where=texts.shown,
            remedy="choose other files",
        )
    return Scanned(tuple(documents), tuple(skipped))


def assigned(documents: Sequence[Document], held_out: Collection[str], shard_bytes: int) -> dict[str, tuple[str, int]]:
    """The split and the number of the shard of each document, by name.

    Each split is cut into shards of about equal size, so none is left with a few documents only; how many follows
    from ``shard_bytes``. A document goes where its first byte falls.
    """
    places: dict[str, tuple[str, int]] = {}
    for split in ("train", "held_out"):
        own = [document for document in documents if (document.name in held_out) == (split == "held_out")]
        numbers = _numbers([document.bytes for document in own], shard_bytes)
        places |= {document.name: (split, number) for document, number in zip(own, numbers, strict=True)}
    return places


def _numbers(sizes: Sequence[int], shard_bytes: int) -> list[int]:
    total = sum(sizes)
    if total == 0:
        return []
    shards = max(1, round(total / shard_bytes))
    begins = np.cumsum(sizes, dtype=np.int64) - np.asarray(sizes, dtype=np.int64)
    falls = begins // -(-total // shards)
    return [int(number) for number in np.unique(falls, return_inverse=True)[1]]  # a long document may span several
