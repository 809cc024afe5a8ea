"""Byte compressors as yardsticks: what a language model of bytes must beat."""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Iterable

from modelwright.base.errors import ModelwrightError


def bits_per_byte(documents: Iterable[tuple[str, bytes]]) -> dict[str, float]:
    """Bits per byte of general compressors, each document on its own, as a model sees them.

    Args:
        documents: names and contents.

    Returns:
        ``byte frequency`` (the order-0 entropy of all documents together), ``gzip -9`` and ``lzma -9e``.

    Raises:
        ModelwrightError: no bytes at all.
    """
    contents = [content for _, content in documents]
    total = sum(map(len, contents))
    if total == 0:
        raise ModelwrightError("the held-out documents are empty", remedy="hold out a larger part of the data")
    return {
        "byte frequency": _entropy(contents),
        "gzip -9": 8 * sum(len(gzip.compress(content, compresslevel=9)) for content in contents) / total,
        "lzma -9e": 8 * sum(len(_lzma(content)) for content in contents) / total,
    }


def _entropy(contents: list[bytes]) -> float:
    counts = Counter[int]()
    for content in contents:
        counts.update(content)
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def _lzma(content: bytes) -> bytes:
    # The preset's dictionary of 64 MiB is set up anew for each document; one of its size finds the same matches.
    size = max(len(content), 4096)
    best = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}
    return lzma.compress(content, filters=[best])
