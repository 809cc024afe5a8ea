"""Safetensors files, written and read in one pass that hashes them on the way.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of a header of JSON, the header, and
the bytes of the tensors without gaps. Files written here are those of the safetensors package, byte for byte; but
several entries of metadata stand in the order of their names, where the package has another order in each process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError

CHUNK = 2**20  # bytes that stay in a core's cache between hashing and writing
_HEADER_LIMIT = 100_000_000

# In the order of the package, which puts the last ones first in a file.
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}
_PLACES = {dtype: place for place, dtype in enumerate(_DTYPES.values())}


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write tensors, without a copy of those that are contiguous in the host's memory, and flush them.

    Args:
        tensors: by name; what shares memory is written under each name.
        path: replaced where it is there.
        metadata: texts for the header.

    Returns:
        ``bytes`` and ``sha256`` of the file.

    Raises:
        OSError: disk full, no permission.
        ModelwrightError: a type that the format does not know.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb", buffering=CHUNK) as file:
        for piece in _pieces(tensors, metadata):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a file, each with memory of its own, and the file's SHA-256: it is read once.

    Raises:
        ModelwrightError: not a safetensors file.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            return _tensors(file, path.stat().st_size, digest), digest.hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelwrightError(f"cannot read the tensors: {error}", where=str(path)) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[memoryview | bytes]:
    for name, tensor in tensors.items():
        if tensor.dtype not in _PLACES:
            raise ModelwrightError(f"tensors of {tensor.dtype} cannot be saved", where=name)
    names = sorted(tensors, key=lambda name: (-_PLACES[tensors[name].dtype], name))
    yield _header([(name, tensors[name]) for name in names], metadata)
    for name in names:
        memory = bytes_of(tensors[name].detach().cpu().contiguous())
        for start in range(0, len(memory), CHUNK):
            yield memory[start : start + CHUNK]


def _header(tensors: list[tuple[str, Tensor]], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name, tensor in tensors:
        end = begin + tensor.numel() * tensor.itemsize
        entries[name] = {"dtype": _WORDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def _tensors(file: IO[bytes], size: int, digest: Any) -> dict[str, Tensor]:
    entries = _entries(file, size, digest)
    tensors, place = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if begin != place or end - begin != math.prod(shape) * dtype.itemsize or end > size:
            raise ValueError(f"the header is wrong about '{name}'")
        tensors[name] = torch.empty(shape, dtype=dtype)
        _fill(bytes_of(tensors[name]), file, digest)
        place = end
    if file.read(1):
        raise ValueError("there are more bytes than tensors")
    return tensors


def _entries(file: IO[bytes], size: int, digest: Any) -> dict[str, dict[str, Any]]:
    head = _exactly(file, 8, digest)
    length = int.from_bytes(head, "little")
    if length > min(size, _HEADER_LIMIT):
        raise ValueError("the header is longer than the file")
    entries: dict[str, dict[str, Any]] = json.loads(_exactly(file, length, digest))
    entries.pop("__metadata__", None)
    return entries


def _exactly(file: IO[bytes], count: int, digest: Any) -> bytes:
    content = bytearray(count)
    _fill(memoryview(content), file, digest)
    return bytes(content)


def _fill(memory: memoryview, file: IO[bytes], digest: Any) -> None:
    place = 0
    while place < len(memory):
        count = file.readinto(memory[place : place + CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the file ends too early")
        digest.update(memory[place : place + count])
        place += count
