"""Whether a file computes what the model computes, on the example and on other sizes than the example's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.export.call import Call
from modelwright.export.resizing import resized
from modelwright.export.runtimes import Runner
from modelwright.export.signature import Signature, flat

TOLERANCE = 1e-4
"""Largest distance of a file's outputs in float32 from the model's, as a part of their length (2-norms)."""


def check_outputs(runner: Runner, model: nn.Module, call: Call, path: Path, tolerance: float = TOLERANCE) -> float:
    """Compare the outputs for the example and, for each size that may vary, for a smaller and a larger one.

    Where the model itself refuses another size, the file is not asked, and an event says so.

    Returns:
        The largest distance seen.

    Raises:
        ModelwrightError: they are further apart than ``tolerance``.
    """
    worst = 0.0
    others = ((f"{name} {size}", other) for name, size, other in resized(call, runner.signature))
    for sizes, other in (("the example", call), *others):
        try:
            wanted = flat(other.answer(model))[1]
        except Exception as error:  # whatever the model raises for a size it is not made for
            emit("export-size-refused", f"the model itself refuses {sizes}: {error}", sizes=sizes)
            continue
        apart = _distance(runner.run(other.tensors), wanted, runner.signature)
        if not apart <= tolerance:
            raise ModelwrightError(
                f"the exported file is wrong: for {sizes} its outputs are {apart:.2g} of their length away from the "
                f"model's, and {tolerance:.0e} is allowed",
                where=str(path),
                remedy="export another format; and tell the authors of the exporter, with the model",
            )
        worst = max(worst, apart)
    return worst


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor], signature: Signature) -> float:
    pairs = zip((found[slot.name] for slot in signature.outputs), wanted.values(), strict=True)
    return max(distance(one, other) for one, other in pairs)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The 2-norm of the difference as a part of that of ``wanted``; infinite for other shapes or other infinities."""
    if found.shape != wanted.shape:
        return torch.inf
    one, other = found.double(), wanted.double()
    finite = other.isfinite()
    if not torch.equal(finite, one.isfinite()):
        return torch.inf
    one, other = one[finite], other[finite]
    length: Any = other.norm()
    return float((one - other).norm() / length.clamp(min=torch.finfo(torch.float32).tiny))
