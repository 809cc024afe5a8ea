"""onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.export.runtimes.inputs import inputs_of
from modelwright.export.signature import Signature

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtra("onnx", "the runtime 'onnxruntime'") from error

_SIGNATURE = "modelwright.signature"
_ERRORS_ONLY = 3


class OnnxRuntime:
    """Computes ``.onnx`` with https://onnxruntime.ai; reading such a file runs no code of its author."""

    precisions: tuple[str, ...] = ("fp32",)  # on the CPU it has no bfloat16

    def facts(self, path: Path) -> dict[str, str]:
        """The file's metadata without the signature."""
        held = dict(_session(path, 1, optimise=False).get_modelmeta().custom_metadata_map)
        return {name: value for name, value in held.items() if name != _SIGNATURE}

    def open(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32", trust: bool = False
    ) -> OnnxRunner:
        """Open a file; see :class:`~modelwright.export.runtimes.Runtime`."""
        return OnnxRunner(path, torch.get_num_threads() if threads is None else threads)


class OnnxRunner:
    """A file in a session of its own.

    Args:
        path: the file.
        threads: that compute one operator together.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._where = str(path)
        self._session = _session(path, threads)
        held = self._session.get_modelmeta().custom_metadata_map
        self.signature = Signature.from_json(held.get(_SIGNATURE, "{}"), self._where)
        self._outputs = [slot.name for slot in self.signature.outputs]

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; see :class:`~modelwright.export.runtimes.Runner`."""
        inputs = inputs_of(self.signature, batch, self._where)
        arrays = {slot.name: each.numpy() for slot, each in zip(self.signature.inputs, inputs, strict=True)}
        try:
            found = self._session.run(self._outputs, arrays)
        except Exception as error:  # its own kinds of error have no common class
            raise ModelwrightError(f"onnxruntime failed: {_first(error)}", where=self._where) from error
        return {name: torch.from_numpy(each) for name, each in zip(self._outputs, found, strict=True)}


def _session(path: Path, threads: int, *, optimise: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of error have no common class
        raise ModelwrightError(
            f"onnxruntime cannot read the file: {_first(error)}", where=str(path), remedy="export it anew"
        ) from error


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
