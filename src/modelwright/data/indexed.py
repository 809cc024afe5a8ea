"""Tokens on disk in Megatron's ``.bin``/``.idx`` format, memory-mapped.

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
        document_starts: where each document begins among them, int64 ``[documents]``.

    Args:
        prefix: path without ``.bin`` and ``.idx``.

    Raises:
        ModelwrightError: a file is missing, cut short, or of another format.
    """

    def __init__(self, prefix: Path) -> None:
        code, sizes, pointers, bounds = _read_index(_idx(prefix))
        kind = np.dtype(_TYPES[code])
        total = int(sizes.sum(dtype=np.int64))
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if not np.array_equal(starts[:-1] * kind.itemsize, pointers) or bounds.max(initial=0) > len(sizes):
            raise _damaged(_idx(prefix), "its sequences do not follow one another")
        _expect_bytes(_bin(prefix), total * kind.itemsize)
        self.tokens: NDArray[Any] = _mapped(_bin(prefix), kind, total)
        self.document_starts: NDArray[np.int64] = starts[bounds[:-1]]
        self._document_ends = starts[bounds[1:]]

    def __len__(self) -> int:
        return len(self.document_starts)

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of one document, a view."""
        return self.tokens[self.document_starts[number] : self._document_ends[number]]


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
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if len(content) < _HEADER.size:
        raise _damaged(path, "it is cut short")
    magic, version, code, sequences, bounds = _HEADER.unpack_from(content)
    if magic != _MAGIC or version != _VERSION or code not in _TYPES:
        raise _damaged(path, "it is no Megatron index of version 1")
    _expect_bytes(path, _HEADER.size + 12 * sequences + 8 * bounds)
    places = np.cumsum([_HEADER.size, 4 * sequences, 8 * sequences])
    return (
        code,
        np.frombuffer(content, "<i4", sequences, int(places[0])),
        np.frombuffer(content, "<i8", sequences, int(places[1])),
        np.frombuffer(content, "<i8", bounds, int(places[2])),
    )


def _expect_bytes(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise _damaged(path, "there is no such file")
    if found != expected:
        raise _damaged(path, f"it has {found} bytes where {expected} are expected")


def _mapped(path: Path, kind: np.dtype[Any], length: int) -> NDArray[Any]:
    if length == 0:  # nothing can be mapped from an empty file
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", shape=(length,))


def _damaged(path: Path, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"the tokens cannot be read: {what}",
        where=str(path),
        remedy=f"remove the folder {path.parent}; it is made again when it is needed",
    )
