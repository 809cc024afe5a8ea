"""torch itself, on the program of a ``.pt2``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.export.runtimes.computing import computing
from modelwright.export.runtimes.inputs import inputs_of
from modelwright.export.torch_export import read_facts, read_program


class TorchRuntime:
    """Computes ``.pt2``; a file that this user did not write is read only where it is trusted."""

    precisions: tuple[str, ...] = ("fp32", "bf16")

    def facts(self, path: Path) -> dict[str, str]:
        """Those in the archive."""
        return read_facts(path)[0]

    def open(
        self, path: Path, *, threads: int | None = None, precision: str = "fp32", trust: bool = False
    ) -> TorchRunner:
        """Open a file; see :class:`~modelwright.export.runtimes.Runtime`."""
        return TorchRunner(path, threads, precision, trust)


class TorchRunner:
    """A program and how many threads compute it.

    Args:
        path: the file.
        threads: ``None``: as many as torch has at the time.
        precision: ``fp32``, or ``bf16`` by autocast.
        trust: read it wherever it came from.
    """

    def __init__(self, path: Path, threads: int | None, precision: str = "fp32", trust: bool = False) -> None:
        self._where, self._threads, self._precision = str(path), threads, precision
        self.signature = read_facts(path)[1]
        self._program = read_program(path, trust=trust).module()

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; see :class:`~modelwright.export.runtimes.Runner`."""
        inputs = inputs_of(self.signature, batch, self._where)
        try:
            with computing(self._threads, self._precision):
                found = self._program(*inputs)
        except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
            raise ModelwrightError(f"the program failed: {error}", where=self._where) from error
        return {slot.name: each for slot, each in zip(self.signature.outputs, found, strict=True)}
