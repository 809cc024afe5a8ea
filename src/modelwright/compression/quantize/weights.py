"""Modules that hold an encoded weight, as buffers that a safetensors file keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import (
    Encoding,
    Half,
    Integers,
    Scales,
    decode,
    encode,
    fit,
    pack,
    unpack,
)


class EncodedWeight(nn.Module):
    """A weight that is stored encoded.

    Attributes:
        shape: of the weight; its first dim is that of the rows.
        encoding: how it is stored.
    """

    shape: tuple[int, ...]
    encoding: Encoding

    def decoded(self) -> Tensor:
        """The weight."""
        raise NotImplementedError

    def rows(self, places: Tensor) -> Tensor:
        """Some of its rows, ``places [...] -> [..., columns]``."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """The weight as ``[rows, columns]``."""
        return self.decoded().reshape(self.shape[0], -1)

    @property
    def stored_bytes(self) -> int:
        """Of its buffers."""
        return sum(each.nbytes for each in self.buffers())


class IntegerWeight(EncodedWeight):
    """A weight of integers.

    Args:
        shape: of the weight.
        encoding: how it is stored.
        dtype: of the scales, and so of the decoded weight.
        device: of the buffers, which are not set yet.
    """

    numbers: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(
        self, shape: Sequence[int], encoding: Integers, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.shape, self.encoding = tuple(shape), encoding
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        self.columns, self.packed = columns, encoding.bits == 4
        scales = (1 if encoding.granularity == "tensor" else rows, encoding.groups(columns))
        numbers = (rows, -(-columns // 2)) if self.packed else (rows, columns)
        kind = torch.uint8 if self.packed else torch.int8
        zero = None if encoding.symmetric else torch.zeros(scales, dtype=torch.int8, device=device)
        self.register_buffer("numbers", torch.zeros(numbers, dtype=kind, device=device))
        self.register_buffer("scale", torch.ones(scales, dtype=dtype, device=device))
        self.register_buffer("zero_point", zero)

    @property
    def scales(self) -> Scales:
        """What its integers mean."""
        return Scales(self.scale, self.zero_point)

    def integers(self) -> Tensor:
        """Int8 ``[rows, columns]``."""
        return unpack(self.numbers, self.columns) if self.packed else self.numbers

    def decoded(self) -> Tensor:
        """See :class:`EncodedWeight`."""
        return decode(self.integers(), self.scales, self._integers.group).reshape(self.shape)

    def rows(self, places: Tensor) -> Tensor:
        """See :class:`EncodedWeight`."""
        chosen = self.numbers[places.flatten()]
        chosen = unpack(chosen, self.columns) if self.packed else chosen
        whole = len(self.scale) == 1
        scale = self.scale if whole else self.scale[places.flatten()]
        zero = self.zero_point if whole or self.zero_point is None else self.zero_point[places.flatten()]
        return decode(chosen, Scales(scale, zero), self._integers.group).reshape(*places.shape, self.columns)

    @torch.no_grad()
    def set(self, integers: Tensor, scales: Scales) -> None:
        """Take integers, int8 ``[rows, columns]``, and what they mean."""
        self.numbers.copy_(pack(integers) if self.packed else integers)
        self.scale.copy_(scales.scale)
        if self.zero_point is not None and scales.zero_point is not None:
            self.zero_point.copy_(scales.zero_point)

    @torch.no_grad()
    def fill(self, matrix: Tensor) -> None:
        """Encode ``matrix [rows, columns]``, each number as the nearest."""
        scales = fit(matrix, self._integers, self.scale.dtype)
        self.set(encode(matrix, scales, self._integers), scales)

    def extra_repr(self) -> str:
        """Its encoding."""
        return f"{list(self.shape)}, {self.encoding}"

    @property
    def _integers(self) -> Integers:
        assert isinstance(self.encoding, Integers)
        return self.encoding


class HalfWeight(EncodedWeight):
    """A weight of floating-point numbers of 16 bits.

    Args:
        shape: of the weight.
        encoding: how it is stored.
        device: of the buffer, which is not set yet.
    """

    numbers: Tensor

    def __init__(self, shape: Sequence[int], encoding: Half, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.shape, self.encoding = tuple(shape), encoding
        kind = torch.bfloat16 if encoding.dtype == "bfloat16" else torch.float16
        self.register_buffer("numbers", torch.zeros(self.shape, dtype=kind, device=device))

    def decoded(self) -> Tensor:
        """See :class:`EncodedWeight`; in its own type."""
        return self.numbers

    def rows(self, places: Tensor) -> Tensor:
        """See :class:`EncodedWeight`; in its own type."""
        return self.numbers[places]

    @torch.no_grad()
    def fill(self, matrix: Tensor) -> None:
        """Round ``matrix [rows, columns]``.

        Raises:
            ModelwrightError: a number is beyond what the type holds.
        """
        rounded = matrix.to(self.numbers.dtype)
        if bool((rounded.isinf() & matrix.isfinite()).any()):
            raise ModelwrightError(
                f"a weight is beyond the range of {self.numbers.dtype}".replace("torch.", ""),
                remedy="take bfloat16, which has the range of float32",
            )
        self.numbers.copy_(rounded.reshape(self.shape))


def encoded_weight(
    shape: Sequence[int], encoding: Encoding, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> IntegerWeight | HalfWeight:
    """A module that holds a weight so encoded, not set yet."""
    if isinstance(encoding, Half):
        return HalfWeight(shape, encoding, device=device)
    return IntegerWeight(shape, encoding, dtype=dtype, device=device)
