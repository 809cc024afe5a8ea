"""Runtimes: what computes an exported file, and so judges it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family
from modelwright.base.errors import MissingExtra, ModelwrightError

if TYPE_CHECKING:
    from torch import Tensor

    from modelwright.export.signature import Signature

RUNTIMES = Family(
    "runtime",
    {
        "executorch": "modelwright.export.runtimes.executorch:ExecuTorch",
        "onnxruntime": "modelwright.export.runtimes.onnx:OnnxRuntime",
        "openvino": "modelwright.export.runtimes.openvino:OpenVino",
        "torch": "modelwright.export.runtimes.torch_export:TorchRuntime",
    },
)

_ENDINGS = {".onnx": ("onnxruntime", "openvino"), ".pt2": ("torch",), ".pte": ("executorch",)}


class Runner(Protocol):
    """An opened file."""

    @property
    def signature(self) -> Signature:
        """What goes in and comes out."""
        ...

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name, on the CPU.

        Raises:
            ModelwrightError: an input is missing, or not as the signature has it.
        """
        ...


class Runtime(Protocol):
    """Opens files of one format.

    Attributes:
        precisions: in which it can compute a file in float32, the exact one first.
    """

    precisions: tuple[str, ...]

    def facts(self, path: Path) -> dict[str, str]:
        """What the file says of its origin; nothing of it is run.

        Raises:
            ModelwrightError: it cannot be read.
        """
        ...

    def open(self, path: Path, *, threads: int | None = None, precision: str = "fp32", trust: bool = False) -> Runner:
        """Open a file.

        Args:
            path: the file.
            threads: that compute; ``None``: as many as torch has here.
            precision: one of its ``precisions``.
            trust: read a file from elsewhere even where that may run code.

        Raises:
            ModelwrightError: it cannot be read, or came from elsewhere and is not trusted.
        """
        ...


def runtime_of(path: Path, name: str | None = None) -> Runtime:
    """The runtime for files that end so: the one of that name, or the first.

    Raises:
        ModelwrightError: there is none, it is not for such files, or it is not installed.
    """
    known = _ENDINGS.get(path.suffix, ())
    if not known:
        raise ModelwrightError(
            f"no runtime computes files that end in '{path.suffix}'",
            where=str(path),
            remedy=f"known: {', '.join(_ENDINGS)}",
        )
    if name is not None and name in RUNTIMES.listing and name not in known:
        raise ModelwrightError(
            f"the runtime '{name}' does not compute such files", where=str(path), remedy=f"known: {', '.join(known)}"
        )
    runtime: Runtime = RUNTIMES.resolve(name or known[0])()
    return runtime


def installed_for(path: Path) -> list[str]:
    """Names of the runtimes that are installed here and compute files that end so."""
    found = []
    for name in _ENDINGS.get(path.suffix, ()):
        try:
            RUNTIMES.resolve(name)
        except MissingExtra:
            continue
        found.append(name)
    return found


def computed(path: Path) -> bool:
    """Whether a runtime computes files that end so."""
    return path.suffix in _ENDINGS


__all__ = ["RUNTIMES", "Runner", "Runtime", "computed", "installed_for", "runtime_of"]
