"""PCM sound in RIFF WAVE files: 8, 16, 24 and 32-bit integers and 32 or 64-bit floats.

Source: "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft, 1991) and Microsoft's
``WAVEFORMATEXTENSIBLE``. Python's own ``wave`` reads integers only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT = struct.Struct("<HHIIHH")


@dataclass(frozen=True)
class Sound:
    """What a file holds.

    Attributes:
        rate: samples a second.
        samples: float32 ``[samples, channels]``; integers are scaled to [-1, 1).
    """

    rate: int
    samples: NDArray[np.float32]


def read_wav(path: Path) -> Sound:
    """Read a file.

    Raises:
        ValueError: it is no WAVE file, is cut short, or holds what is no PCM.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise ValueError("it is no RIFF WAVE file")
        form: bytes | None = None
        for name, size in _chunks(file):
            if name == b"fmt ":
                form = _whole(file, size)
            elif name == b"data":
                return _sound(form, _whole(file, size))
    raise ValueError("it has no data chunk")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Names and sizes of chunks; the file stands at the chunk's first byte while it is looked at."""
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        begin = file.tell()
        yield head[:4], size
        file.seek(begin + size + size % 2)  # chunks begin at even places


def _whole(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"it is cut short: {len(content)} of {size} bytes of a chunk are there")
    return content


def _sound(form: bytes | None, data: bytes) -> Sound:
    if form is None or len(form) < _FORMAT.size:
        raise ValueError("its format is not told before its data")
    kind, channels, rate, _, block, bits = _FORMAT.unpack_from(form)
    if kind == _EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")  # the first two bytes of the sub-format's GUID
    if channels < 1 or rate < 1 or block != channels * (bits // 8) or block == 0 or len(data) % block:
        raise ValueError(f"{channels} channels of {bits} bits do not fill blocks of {block} bytes")
    return Sound(rate, _numbers(kind, bits, data).reshape(-1, channels))


def _numbers(kind: int, bits: int, data: bytes) -> NDArray[np.float32]:
    if kind == _INTEGERS and bits in (8, 16, 24, 32):
        return np.asarray(_integers(bits, data) / 2 ** (bits - 1), dtype=np.float32)
    if kind == _FLOATS and bits in (32, 64):
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    raise ValueError(f"its samples are no PCM that is read here (format {kind}, {bits} bits)")


def _integers(bits: int, data: bytes) -> NDArray[np.int32]:
    if bits == 8:  # the only unsigned ones
        return np.frombuffer(data, "u1").astype(np.int32) - 128
    if bits != 24:
        return np.frombuffer(data, f"<i{bits // 8}").astype(np.int32)
    wide = np.zeros((len(data) // 3, 4), dtype="u1")
    wide[:, 1:] = np.frombuffer(data, "u1").reshape(-1, 3)
    return wide.view("<i4")[:, 0] >> 8
