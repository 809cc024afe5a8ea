"""CRC-32C (Castagnoli), the check sum of TFRecord files; RFC 3720, appendix B.4.

Long data is cut into equal pieces whose sums are made side by side with numpy, and joined by what zeros after
a piece would do to its sum, a linear map over bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # bits reversed
_MASK = 0xA282EAD8
_WORD = 0xFFFFFFFF
_SHORT = 512  # bytes below which a plain loop is faster
_PIECES = 256

Sums = NDArray[np.uint32]


def crc32c(data: bytes) -> int:
    """The check sum of ``data``."""
    if len(data) < _SHORT:
        return _plain(_WORD, data) ^ _WORD
    size = len(data) // _PIECES
    pieces = np.frombuffer(data, np.uint8, count=size * _PIECES).reshape(_PIECES, size)
    sums = _side_by_side(pieces)
    zeros = _zeros(size)
    total = _WORD
    for value in sums.tolist():
        total = _applied(zeros, total) ^ value
    return _plain(total, data[size * _PIECES :]) ^ _WORD


def masked(data: bytes) -> int:
    """The sum as TFRecord stores it: turned and moved, so that sums of data that hold sums stay good."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + _MASK) & _WORD


def _table() -> NDArray[np.uint32]:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = (values >> np.uint32(1)) ^ np.where(values & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    return values.astype(np.uint32)


_TABLE = _table()
_LIST = _TABLE.tolist()


def _plain(value: int, data: bytes) -> int:
    for byte in data:
        value = _LIST[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def _side_by_side(pieces: NDArray[np.uint8]) -> Sums:
    """Sums of pieces ``[pieces, bytes]``, each begun with zero."""
    sums = np.zeros(len(pieces), dtype=np.uint32)
    for column in np.ascontiguousarray(pieces.T):
        sums = _TABLE[(sums ^ column) & np.uint32(0xFF)] ^ (sums >> np.uint32(8))
    return sums


@lru_cache(maxsize=64)
def _zeros(count: int) -> tuple[int, ...]:
    """The map that ``count`` zero bytes are to a sum."""
    power = tuple(_plain(1 << bit, b"\0") for bit in range(32))
    total = tuple(1 << bit for bit in range(32))
    while count:
        if count & 1:
            total = tuple(_applied(power, value) for value in total)
        power = tuple(_applied(power, value) for value in power)
        count >>= 1
    return total


def _applied(linear: tuple[int, ...], value: int) -> int:
    result, bit = 0, 0
    while value:
        if value & 1:
            result ^= linear[bit]
        value >>= 1
        bit += 1
    return result
