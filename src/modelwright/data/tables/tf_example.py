"""``tf.train.Example`` from its bytes.

Wire format of protocol buffers: Example{1: Features}, Features{1: map<string, Feature>}, Feature{1: BytesList |
2: FloatList | 3: Int64List}, each list {1: repeated value}, packed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
Value = int | bytes


def parse(data: bytes) -> dict[str, Any]:
    """Feature name -> a value, or a list where there are none or several. Bytes that are UTF-8 become texts.

    Raises:
        ValueError: these are no bytes of an Example.
    """
    features: dict[str, Any] = {}
    for field, message in _messages(data):
        if field == 1:
            for number, entry in _messages(message):
                if number == 1:
                    name, feature = _entry(entry)
                    features[name] = feature
    return features


def _entry(data: bytes) -> tuple[str, Any]:
    parts = dict(_messages(data))
    values = _feature(parts.get(2, b""))
    return parts.get(1, b"").decode("utf-8"), values[0] if len(values) == 1 else values or None


def _feature(data: bytes) -> list[Any]:
    values: list[Any] = []
    for field, message in _messages(data):
        if field == 1:
            values = [_text(value) for _, value in _messages(message)]
        elif field == 2:
            values = [number for _, kind, value in _fields(message) for number in _floats(kind, value)]
        elif field == 3:
            values = [number for _, kind, value in _fields(message) for number in _integers(kind, value)]
    return values


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _floats(kind: int, value: Value) -> list[float]:
    if not isinstance(value, bytes) or len(value) % 4:
        raise ValueError(f"floats of wire type {kind}")
    numbers: list[float] = np.frombuffer(value, "<f4").tolist()
    return numbers


def _integers(kind: int, value: Value) -> Iterator[int]:
    if isinstance(value, int):
        yield _signed(value)
        return
    if kind != _LENGTH:
        raise ValueError(f"integers of wire type {kind}")
    place = 0
    while place < len(value):
        number, place = _varint(value, place)
        yield _signed(number)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields that hold messages, texts or bytes; others are not of our time and are passed over."""
    for field, kind, value in _fields(data):
        if kind == _LENGTH and isinstance(value, bytes):
            yield field, value


def _fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        field, kind = tag >> 3, tag & 7
        value, place = _value(data, place, kind)
        if field == 0:
            raise ValueError("a field has number 0")
        yield field, kind, value


def _value(data: bytes, place: int, kind: int) -> tuple[Value, int]:
    if kind == _VARINT:
        return _varint(data, place)
    if kind == _LENGTH:
        size, place = _varint(data, place)
    elif kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
    else:
        raise ValueError(f"wire type {kind}")
    if place + size > len(data):
        raise ValueError("a field is longer than the record")
    return data[place : place + size], place + size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number is cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("a number is too long")
