"""Encodings of numbers: as integers with a scale and a zero point, or as shorter floating-point numbers.

A weight is seen as a matrix ``[rows, columns]``: a row is what makes one output channel, or one entry of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError

_SHRUNK = 40  # ranges tried by ``clip``: from the whole one down to half of it


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Integers: a number is ``scale * (integer - zero_point)``, the nearest there is.

    Attributes:
        bits: 8, or 4, of which two lie in one byte.
        symmetric: the zero point is 0, and integers go as far down as up; else from the least number to the largest,
            which suits numbers that are mostly of one sign and costs one byte more for each scale.
        granularity: what has a scale of its own: the whole ``tensor``, each ``channel`` (row), or each ``group`` of
            neighbours in a row.
        group: how many numbers a group has; the last of a row may have fewer.
        clip: leave out the far ends of each range where that makes the mean squared error smaller; else the range is
            that of the numbers.
    """

    bits: Literal[4, 8] = 8
    symmetric: bool = True
    granularity: Literal["tensor", "channel", "group"] = "channel"
    group: int = 32
    clip: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ModelwrightError(f"integers have 4 or 8 bits, not {self.bits}", where="bits")
        if self.granularity not in ("tensor", "channel", "group"):
            raise ModelwrightError(f"granularity is tensor, channel or group, not {self.granularity!r}")
        if self.group < 2:
            raise ModelwrightError(f"a group has at least 2 numbers, not {self.group}", where="group")

    @property
    def lowest(self) -> int:
        """The least integer."""
        return int(self.symmetric) - (1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1)) - 1

    def groups(self, columns: int) -> int:
        """How many scales a row has."""
        return -(-columns // self.group) if self.granularity == "group" else 1

    def bytes(self, rows: int, columns: int, scale: torch.dtype = torch.float32) -> int:
        """Of an encoded matrix, its scales and zero points included."""
        scales = self.groups(columns) * (1 if self.granularity == "tensor" else rows)
        numbers = rows * (columns if self.bits == 8 else -(-columns // 2))
        return numbers + scales * (scale.itemsize + (0 if self.symmetric else 1))


@dataclass(frozen=True, kw_only=True)
class Half:
    """Floating-point numbers of 16 bits.

    Attributes:
        dtype: ``bfloat16``, of the range of float32 and 8 bits of precision, or ``float16``, of 11 bits up to 65504.
        compute: multiply in this type too, which is several times as fast where a CPU has instructions for it; else in
            the type of what the layer reads.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    compute: bool = True

    bits = 16

    def __post_init__(self) -> None:
        if self.dtype not in ("bfloat16", "float16"):
            raise ModelwrightError(f"dtype is bfloat16 or float16, not {self.dtype!r}", where="dtype")

    def bytes(self, rows: int, columns: int, scale: torch.dtype = torch.float32) -> int:
        """Of an encoded matrix."""
        return 2 * rows * columns


Encoding = Integers | Half
_KINDS: dict[str, type[Integers] | type[Half]] = {"integers": Integers, "half": Half}


def to_json(encoding: Encoding) -> dict[str, Any]:
    """JSON-ready."""
    kind = next(name for name, each in _KINDS.items() if isinstance(encoding, each))
    return {"kind": kind, **asdict(encoding)}


def from_json(values: Mapping[str, Any]) -> Encoding:
    """What :func:`to_json` gave.

    Raises:
        ModelwrightError: it is none.
    """
    given = dict(values)
    try:
        return _KINDS[given.pop("kind")](**given)
    except (KeyError, TypeError) as error:
        raise ModelwrightError(f"this describes no encoding: {dict(values)}") from error


@dataclass(frozen=True, eq=False)
class Scales:
    """What integers of a matrix mean.

    Attributes:
        scale: ``[rows, groups]``, or ``[1, 1]`` for the whole tensor.
        zero_point: int8, of the same shape; ``None`` for 0.
    """

    scale: Tensor
    zero_point: Tensor | None

    def rows(self, start: int, stop: int) -> Scales:
        """Those of some rows."""
        if len(self.scale) == 1:
            return self
        zero = None if self.zero_point is None else self.zero_point[start:stop]
        return Scales(self.scale[start:stop], zero)

    def group(self, number: int) -> Scales:
        """Those of one group of each row, ``[rows, 1]``."""
        if self.scale.shape[1] == 1:
            return self
        zero = None if self.zero_point is None else self.zero_point[:, number : number + 1]
        return Scales(self.scale[:, number : number + 1], zero)


def scales_of(low: Tensor, high: Tensor, encoding: Integers, dtype: torch.dtype) -> Scales:
    """Scales for numbers from ``low`` to ``high``, which always reach to 0; of type ``dtype``, at least of 16 bits."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    span = torch.maximum(-low, high) / encoding.highest if encoding.symmetric else (high - low) / (2**encoding.bits - 1)
    scale = span.to(dtype)
    scale = torch.where(scale > torch.finfo(dtype).tiny, scale, torch.ones_like(scale))
    if encoding.symmetric:
        return Scales(scale, None)
    zero = (encoding.lowest - low / scale).round().clamp(encoding.lowest, encoding.highest)
    return Scales(scale, zero.to(torch.int8))


def fit(matrix: Tensor, encoding: Integers, dtype: torch.dtype = torch.float32) -> Scales:
    """The scales for the numbers in ``matrix [rows, columns]``."""
    low, high = _extreme(matrix, encoding, -1), _extreme(matrix, encoding, 1)
    if not encoding.clip:
        return scales_of(low, high, encoding, dtype)
    best, least = scales_of(low, high, encoding, dtype), torch.full_like(low, torch.inf)
    for part in torch.linspace(1.0, 0.5, _SHRUNK).tolist():
        tried = scales_of(low * part, high * part, encoding, dtype)
        error = _sums((decode(encode(matrix, tried, encoding), tried, encoding.group) - matrix).square(), encoding)
        best = _where(error < least, tried, best)
        least = torch.minimum(error, least)
    return best


def encode(matrix: Tensor, scales: Scales, encoding: Integers) -> Tensor:
    """The nearest integers, int8 ``[rows, columns]``; what lies outside the range becomes its end."""
    wide = torch.promote_types(matrix.dtype, torch.float32)
    scale = spread(scales.scale, matrix.shape[1], encoding.group).to(wide)
    integers = (matrix.to(wide) / scale).round()
    if scales.zero_point is not None:
        integers = integers + spread(scales.zero_point, matrix.shape[1], encoding.group)
    return integers.clamp(encoding.lowest, encoding.highest).to(torch.int8)


def decode(integers: Tensor, scales: Scales, group: int) -> Tensor:
    """The numbers that ``integers [rows, columns]`` stand for, in the type of the scales."""
    columns, scale = integers.shape[1], scales.scale
    if scales.zero_point is not None:
        integers = integers.to(torch.int16) - spread(scales.zero_point, columns, group)
    return integers.to(scale.dtype) * spread(scale, columns, group)


def spread(values: Tensor, columns: int, group: int) -> Tensor:
    """``[rows, groups]`` as ``[rows, columns]``, or as it is where one value serves a whole row."""
    return values if values.shape[1] == 1 else values.repeat_interleave(group, dim=1)[:, :columns]


def pack(integers: Tensor) -> Tensor:
    """Integers of 4 bits, int8 ``[rows, columns]``, as uint8 ``[rows, columns / 2 rounded up]``: the even ones low."""
    padded = functional.pad(integers, (0, integers.shape[1] % 2))
    nibbles = padded.view(torch.uint8) & 15
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """What :func:`pack` was given, int8 ``[rows, columns]``."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, :columns].to(torch.int8)
    return pairs - ((pairs & 8) << 1)


def _extreme(matrix: Tensor, encoding: Integers, sign: int) -> Tensor:
    """The largest number of each part, or the least for ``sign`` -1; ``[rows, groups]``, ``[1, 1]`` of a tensor."""
    if encoding.granularity == "tensor":
        return sign * (sign * matrix).amax().reshape(1, 1)
    return sign * _grouped(sign * matrix, encoding).amax(-1)


def _sums(matrix: Tensor, encoding: Integers) -> Tensor:
    if encoding.granularity == "tensor":
        return matrix.sum().reshape(1, 1)
    return _grouped(matrix, encoding).sum(-1)


def _grouped(matrix: Tensor, encoding: Integers) -> Tensor:
    """``[rows, groups, numbers]``; zeros make the last group full, and change no range as each contains 0."""
    if encoding.granularity == "channel":
        return matrix[:, None, :]
    return functional.pad(matrix, (0, -matrix.shape[1] % encoding.group)).reshape(len(matrix), -1, encoding.group)


def _where(chosen: Tensor, one: Scales, other: Scales) -> Scales:
    zero = None
    if one.zero_point is not None and other.zero_point is not None:
        zero = torch.where(chosen, one.zero_point, other.zero_point)
    return Scales(torch.where(chosen, one.scale, other.scale), zero)
