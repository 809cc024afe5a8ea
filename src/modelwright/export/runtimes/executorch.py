"""ExecuTorch on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.export.runtimes.inputs import inputs_of
from modelwright.export.signature import Signature

try:
    from executorch.runtime import Runtime as Engine
except ImportError as error:
    raise MissingExtra("executorch", "the runtime 'executorch'") from error

_SAID = "modelwright"


class ExecuTorch:
    """Computes ``.pte`` with https://docs.pytorch.org/executorch; reading such a file runs no code of its author."""

    precisions: tuple[str, ...] = ("fp32",)

    def facts(self, path: Path) -> dict[str, str]:
        """What the file's own method says."""
        return dict(_said(_program(path), path)["facts"])

    def open(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32", trust: bool = False
    ) -> ExecuTorchRunner:
        """Open a file; see :class:`~modelwright.export.runtimes.Runtime`. Its threads are its own."""
        return ExecuTorchRunner(path)


class ExecuTorchRunner:
    """A file in memory.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._where = str(path)
        self._program = _program(path)  # its methods live in it
        self.signature = Signature.from_json(_said(self._program, path)["signature"], self._where)
        self._method = self._program.load_method("forward")

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; see :class:`~modelwright.export.runtimes.Runner`."""
        inputs = [each.contiguous() for each in inputs_of(self.signature, batch, self._where)]
        try:
            found = self._method.execute(inputs)
        except RuntimeError as error:
            raise ModelwrightError(f"ExecuTorch failed: {error}", where=self._where) from error
        # Outputs lie in memory of the method, which the next call writes.
        return {slot.name: each.clone() for slot, each in zip(self.signature.outputs, found, strict=True)}


def _program(path: Path) -> Any:
    try:
        return Engine.get().load_program(path)
    except RuntimeError as error:
        raise ModelwrightError(
            f"ExecuTorch cannot read the file: {error}", where=str(path), remedy="export it anew"
        ) from error


def _said(program: Any, path: Path) -> dict[str, Any]:
    if _SAID not in program.method_names:
        raise ModelwrightError(
            "the file does not say what goes in and comes out", where=str(path), remedy="export it with modelwright"
        )
    said: dict[str, Any] = json.loads(program.load_method(_SAID).execute([])[0])
    return said
