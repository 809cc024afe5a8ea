"""What layers read, as integers of 8 bits: with ranges found for each token, or once on examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Integers, Scales, scales_of
from modelwright.compression.quantize.observers import OBSERVERS, Observer
from modelwright.compression.quantize.observers.min_max import MinMax
from modelwright.compression.quantize.standard import dequantized, quantized
from modelwright.compression.quantize.straight import through

LOWEST, HIGHEST = -128, 127


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Ranges found while the model runs: for each token that a linear layer reads, for each sample of a convolution.

    Needs no examples. Linear layers multiply integers then, on CPUs; whether that is faster, the receipt says.

    Attributes:
        symmetric: the zero point is 0; else ranges go from the least number to the largest, for numbers that are mostly
            of one sign.
    """

    symmetric: bool = True


@dataclass(frozen=True, kw_only=True)
class Static:
    """Ranges found once, on examples: one for all that a layer reads, which most runtimes want.

    Attributes:
        observer: what finds the range; one of the family ``observer``.
        symmetric: the zero point is 0; else ranges go from the least number to the largest.
    """

    observer: Annotated[Observer, OBSERVERS] = field(default_factory=MinMax)
    symmetric: bool = False


class Inputs(nn.Module):
    """Rounds what a layer reads."""

    def scales(self, x: Tensor) -> Scales:
        """What integers mean, of a shape that goes with ``x``; the zero point is never ``None``."""
        raise NotImplementedError

    def integers(self, x: Tensor, scales: Scales) -> Tensor:
        """The nearest integers, int8 of the shape of ``x``."""
        return _nearest(x, scales).to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        """``x [...]``, rounded; gradients go through where it lies in the range."""
        scales = self.scales(x)
        rounded = _meaning(_nearest(x, scales), scales).to(x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return rounded
        ends = [_meaning(torch.full_like(scales.scale, end), scales) for end in (LOWEST, HIGHEST)]
        return through(x, rounded, (x >= ends[0]) & (x <= ends[1]))


class DynamicInputs(Inputs):
    """See :class:`Dynamic`.

    Args:
        symmetric: the zero point is 0.
        samples: whether each sample has one range, else each token.
    """

    def __init__(self, *, symmetric: bool, samples: bool) -> None:
        super().__init__()
        self.samples = samples
        self.symmetric = symmetric
        self._encoding = Integers(bits=8, symmetric=symmetric)

    def scales(self, x: Tensor) -> Scales:
        """See :class:`Inputs`."""
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        dims = tuple(range(1, x.dim())) if self.samples else (-1,)
        low, high = wide.amin(dims, keepdim=True), wide.amax(dims, keepdim=True)
        found = scales_of(low, high, self._encoding, wide.dtype)
        zero = torch.zeros_like(found.scale, dtype=torch.int8) if found.zero_point is None else found.zero_point
        return Scales(found.scale, zero)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; see :func:`inputs_of`."""
        return {"kind": "dynamic", "symmetric": self._encoding.symmetric}


class StaticInputs(Inputs):
    """See :class:`Static`.

    Args:
        scale: of all numbers.
        zero_point: the integer that means 0.

    Attributes:
        standard: whether it computes by the operators that ONNX has for it.
    """

    standard = False

    def __init__(self, *, scale: float, zero_point: int) -> None:
        super().__init__()
        if not (scale > 0 and LOWEST <= zero_point <= HIGHEST):
            raise ModelwrightError(f"a scale is above 0 and a zero point a byte, not {scale} and {zero_point}")
        self.scale, self.zero_point = float(scale), int(zero_point)

    def scales(self, x: Tensor) -> Scales:
        """See :class:`Inputs`."""
        wide = torch.promote_types(x.dtype, torch.float32)
        zero = torch.tensor(self.zero_point, dtype=torch.int8, device=x.device)
        return Scales(torch.tensor(self.scale, dtype=wide, device=x.device), zero)

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Inputs`."""
        if self.standard:
            return dequantized(quantized(x, self.scale, self.zero_point), self.scale, self.zero_point)
        return super().forward(x)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; see :func:`inputs_of`."""
        return {"kind": "static", "scale": self.scale, "zero_point": self.zero_point}

    def extra_repr(self) -> str:
        """Its numbers."""
        return f"scale={self.scale:.4g}, zero_point={self.zero_point}"


def static_inputs(low: float, high: float, *, symmetric: bool) -> StaticInputs:
    """Inputs for numbers from ``low`` to ``high``."""
    ends = torch.tensor([low, high], dtype=torch.float64)
    found = scales_of(ends[0], ends[1], Integers(bits=8, symmetric=symmetric), torch.float32)
    zero = 0 if found.zero_point is None else int(found.zero_point)
    return StaticInputs(scale=float(found.scale), zero_point=zero)


def inputs_of(values: Mapping[str, Any] | None, *, samples: bool) -> DynamicInputs | StaticInputs | None:
    """What ``to_json`` of inputs gave, ``None`` for those that are not rounded.

    Args:
        values: plain data.
        samples: whether dynamic ranges are of samples, else of tokens.

    Raises:
        ModelwrightError: it describes none.
    """
    if values is None:
        return None
    given = dict(values)
    try:
        kind = given.pop("kind")
        return DynamicInputs(samples=samples, **given) if kind == "dynamic" else StaticInputs(**given)
    except (KeyError, TypeError) as error:
        raise ModelwrightError(f"this describes no inputs: {dict(values)}") from error


def _nearest(x: Tensor, scales: Scales) -> Tensor:
    assert scales.zero_point is not None
    return ((x / scales.scale).round() + scales.zero_point).clamp(LOWEST, HIGHEST)


def _meaning(integers: Tensor, scales: Scales) -> Tensor:
    assert scales.zero_point is not None
    return (integers - scales.zero_point) * scales.scale
