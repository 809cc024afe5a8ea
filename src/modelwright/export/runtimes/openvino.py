"""OpenVINO on the CPU, on the same ``.onnx`` as onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.export.runtimes.inputs import inputs_of
from modelwright.export.signature import Signature

try:
    import onnx
    import openvino
except ImportError as error:
    raise MissingExtra("openvino", "the runtime 'openvino'") from error

_SIGNATURE = "modelwright.signature"
_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """Computes ``.onnx`` with https://docs.openvino.ai; reading such a file runs no code of its author."""

    precisions: tuple[str, ...] = tuple(_HINTS)

    def facts(self, path: Path) -> dict[str, str]:
        """The file's metadata without the signature."""
        return {name: value for name, value in _metadata(path).items() if name != _SIGNATURE}

    def open(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32", trust: bool = False
    ) -> OpenVinoRunner:
        """Open a file; see :class:`~modelwright.export.runtimes.Runtime`.

        Left to itself, OpenVINO computes in bfloat16 wherever the processor can: here it is told the precision.
        """
        return OpenVinoRunner(path, torch.get_num_threads() if threads is None else threads, precision)


class OpenVinoRunner:
    """A compiled file.

    Args:
        path: the file.
        threads: that compute.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        self._where = str(path)
        self.signature = Signature.from_json(_metadata(path).get(_SIGNATURE, "{}"), self._where)
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise ModelwrightError(
                f"OpenVINO cannot read the file: {str(error).strip().splitlines()[0]}",
                where=self._where,
                remedy="compute it with onnxruntime",
            ) from error

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; see :class:`~modelwright.export.runtimes.Runner`."""
        inputs = inputs_of(self.signature, batch, self._where)
        arrays = {slot.name: each.numpy() for slot, each in zip(self.signature.inputs, inputs, strict=True)}
        try:
            found = self._compiled(arrays, share_outputs=False)
        except RuntimeError as error:
            raise ModelwrightError(f"OpenVINO failed: {error}", where=self._where) from error
        return {slot.name: torch.from_numpy(found[slot.name]) for slot in self.signature.outputs}


def _metadata(path: Path) -> dict[str, str]:
    try:
        held = onnx.load(str(path), load_external_data=False).metadata_props
    except Exception as error:  # the parser of protocol buffers has no errors of its own to name
        raise ModelwrightError(f"the file is not ONNX: {error}", where=str(path)) from error
    return {entry.key: entry.value for entry in held}
