"""The ``.pte`` of ExecuTorch, for phones and boards: its XNNPACK kernels where they fit, its portable ones elsewhere.

All memory is planned at the export, so sizes that may vary go up to those of the example and no further.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import replacing
from modelwright.export.call import Call
from modelwright.export.program import Program, capture
from modelwright.export.signature import Signature

try:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
except ImportError as error:
    raise MissingExtra("executorch", "the export format 'executorch'") from error

SAID = "modelwright"
"""The method of the file that returns facts and signature as JSON."""


def export_executorch(
    path: Path,
    weights: Mapping[str, Tensor],
    model: Callable[[], nn.Module],
    facts: Mapping[str, str],
    call: Callable[[], Call],
) -> None:
    """Write the model in float32 as it is called; a method of the file returns the ``facts`` and the signature.

    Raises:
        ModelwrightError: the model cannot be captured or has an operator that ExecuTorch lacks; disk full.
    """
    program = capture(model(), call())
    said = json.dumps({"facts": dict(facts), "signature": _bounded(program).to_json()})
    content = _lowered(program, said)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _bounded(program: Program) -> Signature:
    """With the example's sizes as the largest."""
    slots = program.signature.inputs
    pairs = [pair for slot in slots for pair in zip(slot.shape, program.call.tensors[slot.name].shape, strict=True)]
    return replace(program.signature, largest={name: size for name, size in pairs if isinstance(name, str)})


def _lowered(program: Program, said: str) -> bytes:
    try:
        with _quietly():
            edge = to_edge_transform_and_lower(
                program.exported, partitioner=[XnnpackPartitioner()], constant_methods={SAID: said}
            )
            return bytes(edge.to_executorch().buffer)
    except Exception as error:  # whatever the translation of foreign operators raises
        reason = str(error).strip().splitlines()
        raise ModelwrightError(
            f"the model cannot be written for ExecuTorch: {reason[0] if reason else type(error).__name__}",
            where="executorch",
            remedy="export it as ONNX or torch-export",
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what its passes tell of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
