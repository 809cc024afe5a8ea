"""Byte compressors as yardsticks: what a language model of bytes must beat."""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Iterable, Iterator

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.units import bytes_text

MOST = 64_000_000  # Bytes; lzma takes about a second for one million of them.


def bits_per_byte(documents: Iterable[tuple[str, bytes]], most: int = MOST) -> dict[str, float]:
    """Bits per byte of general compressors, each document on its own, as a model sees them.

    Args:
        documents: names and contents, read one at a time.
        most: bytes to compress; where there are more, an event says so, and the first ones count.

    Returns:
        ``byte frequency`` (the order-0 entropy of all documents together), ``gzip -9`` and ``lzma -9e``.

    Raises:
        ModelwrightError: no bytes at all.
    """
    frequencies, gzipped, lzmaed = Counter[int](), 0, 0
    for content in _first(documents, most):
        frequencies.update(content)
        gzipped += len(gzip.compress(content, compresslevel=9))
        lzmaed += len(_lzma(content))
    total = frequencies.total()
    if total == 0:
        raise ModelwrightError("the held-out documents are empty", remedy="hold out a larger part of the data")
    return {
        "byte frequency": _entropy(frequencies),
        "gzip -9": 8 * gzipped / total,
        "lzma -9e": 8 * lzmaed / total,
    }


def _first(documents: Iterable[tuple[str, bytes]], most: int) -> Iterator[bytes]:
    """The contents of the first ``most`` bytes, the last document cut short where need be."""
    left = most
    for _, content in documents:
        if len(content) > left:
            told = f"only the first {bytes_text(most)} of the held-out documents are compressed"
            emit("documents-cut", told, level="warning")
            yield content[:left]
            return
        left -= len(content)
        yield content


def _entropy(frequencies: Counter[int]) -> float:
    total = frequencies.total()
    return -sum(count / total * math.log2(count / total) for count in frequencies.values())


def _lzma(content: bytes) -> bytes:
    # The preset's dictionary of 64 MiB is set up anew for each document; one of its size finds the same matches.
    size = max(len(content), 4096)
    best = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}
    return lzma.compress(content, filters=[best])
