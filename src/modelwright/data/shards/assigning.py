"""Which document goes to which shard: decided by their order and size alone, before there are any tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from modelwright.data.texts.distinct import Document


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
