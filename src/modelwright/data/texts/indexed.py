"""Tokens on disk in Megatron's ``.bin``/``.idx`` format, both memory-mapped.

``PREFIX.bin`` is all tokens, one document after the other. ``PREFIX.idx``, little-endian: magic, version
(u64), code of the tokens' type (u8), numbers of sequences and of document bounds (u64 each), sizes of the
sequences in tokens (i32), their places in the ``.bin`` in bytes (i64), bounds of the documents in sequences
(i64, from 0). Source: ``megatron/core/datasets/indexed_dataset.py`` of NVIDIA's Megatron-LM.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import replacing

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, type[np.number[Any]]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_UINT16_BELOW = 65500  # Megatron's own border
_LONGEST = 2**31 - 1


def token_type(vocabulary: int) -> np.dtype[Any]:
    """The type Megatron stores tokens of such a vocabulary in."""
    return np.dtype(np.uint16 if vocabulary < _UINT16_BELOW else np.int32)


def write(prefix: Path, documents: Iterable[NDArray[Any]], vocabulary: int) -> tuple[int, int]:
    """Write documents of tokens, one at a time, to ``prefix.bin`` and ``prefix.idx``.

    Returns:
        Numbers of documents and of tokens.

    Raises:
        ModelwrightError: a token outside of the vocabulary, a document over 2**31 - 1 tokens, or a full disk.
    """
    kind = token_type(vocabulary)
    sizes = array("q")
    with replacing(_bin(prefix)) as temporary, temporary.open("wb") as file:
        for document in documents:
            file.write(_checked(document, vocabulary).astype(kind).tobytes())
            sizes.append(len(document))
    _write_index(_idx(prefix), np.array(sizes, dtype=np.int64), kind)
    return len(sizes), sum(sizes)


class Indexed:
    """Documents of tokens, memory-mapped.

    Attributes:
        tokens: all of them in a row, ``[tokens]``, on disk until they are read.

    Args:
        prefix: path without ``.bin`` and ``.idx``.

    Raises:
        ModelwrightError: a file is missing, cut short, or of another format.
    """

    def __init__(self, prefix: Path) -> None:
        code, sizes, pointers, bounds = _read_index(_idx(prefix))
        kind = np.dtype(_TYPES[code])
        ends = np.cumsum(sizes, dtype=np.int64)
        follow = np.array_equal((ends - sizes) * kind.itemsize, pointers)
        if not follow or bounds.min(initial=0) < 0 or bounds.max(initial=0) > len(sizes):
            raise _damaged(_idx(prefix), "its sequences do not follow one another")
        total = int(ends[-1]) if len(ends) else 0
        _expect_bytes(_bin(prefix), total * kind.itemsize)
        self.tokens: NDArray[Any] = _mapped(_bin(prefix), kind, total)
        self._pointers, self._bounds = np.asarray(pointers), np.asarray(bounds)  # views: they stay on disk

    def __len__(self) -> int:
        return max(0, len(self._bounds) - 1)

    @property
    def document_starts(self) -> NDArray[np.int64]:
        """Where each document begins among the tokens, int64 ``[documents]``; made anew at each call."""
        places = np.append(self._pointers, self.tokens.nbytes) // self.tokens.itemsize
        return np.asarray(places[self._bounds[:-1]], dtype=np.int64)

    def beginnings(self, firsts: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where documents begin within some ranges of tokens.

        Found by bisection of the index where it lies on disk: the time grows with the logarithm of the number of
        documents, and nothing is kept.

        Args:
            firsts: the first token of each range, ``[ranges]``.
            length: tokens in a range; may lead beyond the last token.

        Returns:
            The number of the range and the place in it, in this order, ``[beginnings]`` each. Behind the last document,
            where another one would begin, is a beginning too; documents without tokens begin where the next one does.
        """
        before, until = np.split(self._bounds_before(np.concatenate([firsts, firsts + length])), 2)
        counts = until - before
        ranges = np.repeat(np.arange(len(firsts)), counts)
        bounds = np.arange(len(ranges)) + np.repeat(before - (np.cumsum(counts) - counts), counts)
        return ranges, self._places(bounds) - firsts[ranges]

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of one document, a view."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        return self.tokens[self._place(self._bounds[number]) : self._place(self._bounds[number + 1])]

    def _bounds_before(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bounds of documents lie before each place.

        Bisection by hand: the index is not aligned in its file, so ``np.searchsorted`` would copy all of it.
        """
        low, high = np.zeros_like(places), np.full_like(places, len(self._bounds))
        for _ in range(len(self._bounds).bit_length()):
            middle = np.minimum((low + high) // 2, len(self._bounds) - 1)
            before = self._places(middle) < places
            low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
        return low

    def _places(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the sequences at these bounds begin among the tokens."""
        sequences = self._bounds[bounds]
        inside = sequences < len(self._pointers)
        places = np.full(sequences.shape, len(self.tokens), dtype=np.int64)
        places[inside] = self._pointers[sequences[inside]] // self.tokens.itemsize
        return places

    def _place(self, sequence: int) -> int:
        """Where a sequence begins among the tokens; one past the last sequence begins at their end."""
        if sequence == len(self._pointers):
            return len(self.tokens)
        return int(self._pointers[sequence]) // self.tokens.itemsize


def _bin(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.bin")


def _idx(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.idx")


def _checked(document: NDArray[Any], vocabulary: int) -> NDArray[Any]:
    if len(document) > _LONGEST:
        raise ModelwrightError(f"a document has {len(document)} tokens; the format holds {_LONGEST}")
    if len(document) and not (document.min() >= 0 and document.max() < vocabulary):
        raise ModelwrightError(f"a token lies outside of the vocabulary of {vocabulary}")
    return document


def _write_index(path: Path, sizes: NDArray[np.int64], kind: np.dtype[Any]) -> None:
    pointers = (np.cumsum(sizes) - sizes) * kind.itemsize
    bounds = np.arange(len(sizes) + 1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, _VERSION, _CODES[kind], len(sizes), len(bounds)))
        file.write(sizes.astype("<i4").tobytes())
        file.write(pointers.astype("<i8").tobytes())
        file.write(bounds.astype("<i8").tobytes())


def _read_index(path: Path) -> tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]:
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if len(header) < _HEADER.size:
        raise _damaged(path, "it is cut short")
    magic, version, code, sequences, bounds = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION or code not in _TYPES:
        raise _damaged(path, "it is no Megatron index of version 1")
    _expect_bytes(path, _HEADER.size + 12 * sequences + 8 * bounds)
    places = np.cumsum([_HEADER.size, 4 * sequences, 8 * sequences])
    return (
        code,
        _mapped(path, np.dtype("<i4"), sequences, int(places[0])),
        _mapped(path, np.dtype("<i8"), sequences, int(places[1])),
        _mapped(path, np.dtype("<i8"), bounds, int(places[2])),
    )


def _expect_bytes(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise _damaged(path, "there is no such file")
    if found != expected:
        raise _damaged(path, f"it has {found} bytes where {expected} are expected")


def _mapped(path: Path, kind: np.dtype[Any], length: int, offset: int = 0) -> NDArray[Any]:
    if length == 0:  # nothing can be mapped from an empty file
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=offset, shape=(length,))


def _damaged(path: Path, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"the tokens cannot be read: {what}",
        where=str(path),
        remedy=f"remove the folder {path.parent}; it is made again when it is needed",
    )
