"""Texts as the tokens that a language model learns from, on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.data import Tokenizer
from modelwright.data.texts import indexed


def write_texts(prefix: Path, texts: Iterable[bytes], tokenizer: Tokenizer) -> tuple[int, int]:
    """Write the tokens of each text as a document of ``PREFIX.bin`` and ``PREFIX.idx``.

    Returns:
        How many documents, and how many tokens.

    Raises:
        ModelwrightError: the disk is full, or a text cannot be made tokens of.
    """
    return indexed.write(prefix, (_begun(tokenizer, text) for text in texts), tokenizer.vocabulary)


def _begun(tokenizer: Tokenizer, text: bytes) -> NDArray[Any]:
    """Tokens after an end of text: a document's first one is predicted too, and sees that a text begins.

    It is no clean start where documents are joined: the end of the one before is still in sight.
    """
    return np.concatenate([[tokenizer.end_of_text], tokenizer.encode(text)])
