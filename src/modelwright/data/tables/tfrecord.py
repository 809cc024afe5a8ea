"""TFRecord files of ``tf.train.Example``, read without TensorFlow.

A record is its length (u64), the masked CRC-32C of the length (u32), the data, and the masked CRC-32C of the
data (u32), all little-endian. Source: TensorFlow's guide "TFRecord and tf.train.Example" and
``tensorflow/core/example/{example,feature}.proto``.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from modelwright.base.errors import ModelwrightError
from modelwright.data.tables.crc32c import masked
from modelwright.data.tables.records import Record, missing_or_refused, unreadable
from modelwright.data.tables.tables import TableFiles
from modelwright.data.tables.tf_example import parse

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_LONGEST = 2**31  # a protocol buffer is no longer


@dataclass(frozen=True, kw_only=True)
class TfRecord(TableFiles):
    """Tables in TFRecord files of ``tf.train.Example``. A feature of several values becomes several features."""

    def rows(self, path: Path) -> Iterator[tuple[str, Record]]:
        """Pairs of a place and a row of one file."""
        return read(path)


def read(path: Path) -> Iterator[tuple[str, Record]]:
    """Pairs of a place and an example: name -> number, text, bytes that are no text, or a list of these.

    Raises:
        ModelwrightError: a record is corrupt or cut short, or is no ``tf.train.Example``; names the file and
            the byte at which the record begins (of the unpacked data, in ``.gz``).
    """
    for offset, data in frames(path):
        place = f"{path}:byte {offset}"
        try:
            record = parse(data)
        except ValueError as error:
            raise ModelwrightError(
                f"a record is no tf.train.Example: {error}", where=place, remedy="write Examples, not other data"
            ) from error
        yield place, record


def frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Pairs of an offset in bytes and the data of the record that begins there, its check sums compared.

    Raises:
        ModelwrightError: a record is corrupt or cut short.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            offset = 0
            while (frame := _frame(cast("IO[bytes]", file), path, offset)) is not None:
                yield offset, frame
                offset += _HEADER.size + len(frame) + _FOOTER.size
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable(path, f"it is no gzip file, or it is cut short ({error})") from error
    except OSError as error:
        raise missing_or_refused(path, error) from error


def _frame(file: IO[bytes], path: Path, offset: int) -> bytes | None:
    header = file.read(_HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise _damaged(path, offset, "is cut short")
    length, check = _HEADER.unpack(header)
    if masked(header[:8]) != check or length > _LONGEST:
        raise _damaged(path, offset, "has a corrupt length, or the file is no TFRecord")
    data, footer = file.read(length), file.read(_FOOTER.size)
    if len(data) < length or len(footer) < _FOOTER.size:
        raise _damaged(path, offset, "is cut short")
    if masked(data) != _FOOTER.unpack(footer)[0]:
        raise _damaged(path, offset, "is corrupt: its check sum differs")
    return data


def _damaged(path: Path, offset: int, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"a record {what}", where=f"{path}:byte {offset}", remedy="write the file again, or restore it from a copy"
    )
