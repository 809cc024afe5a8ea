"""Bytes as tokens: nothing to train, nothing unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ByteTokenizer:
    """Token ``b`` is byte ``b``; 256 ends a text."""

    vocabulary = 257
    end_of_text = 256

    def encode(self, text: bytes) -> NDArray[np.int64]:
        """One token per byte, int64 ``[bytes]``."""
        return np.frombuffer(text, dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of ``tokens``; 256 gives none."""
        numbers = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens), dtype=np.int64)
        return numbers[numbers < 256].astype(np.uint8).tobytes()

    def token_bytes(self) -> NDArray[np.int64]:
        """1 for each byte, 0 for the end of a text, int64 ``[257]``."""
        return np.array([1] * 256 + [0], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Nothing to write."""


@dataclass(frozen=True, kw_only=True)
class Byte:
    """One token per byte."""

    def train(self, texts: Iterable[Any]) -> ByteTokenizer:
        """Nothing to learn from ``texts``."""
        return ByteTokenizer()

    def load(self, folder: Path) -> ByteTokenizer:
        """Nothing to read from ``folder``."""
        return ByteTokenizer()
