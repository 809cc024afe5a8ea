"""Export: formats in which a trained model leaves the house."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelwright.export.call import Call

FORMATS = Family(
    "export format",
    {
        "executorch": "modelwright.export.executorch:export_executorch",
        "onnx": "modelwright.export.onnx:export_onnx",
        "safetensors": "modelwright.export.safetensors:export_tensors",
        "torch-export": "modelwright.export.torch_export:export_program",
        "transformers": "modelwright.export.hugging_face:export_folder",
    },
)


class ExportFormat(Protocol):
    """Writes a trained model; whole or not at all."""

    def __call__(
        self,
        path: Path,
        weights: Mapping[str, Tensor],
        model: Callable[[], nn.Module],
        facts: Mapping[str, str],
        call: Callable[[], Call],
    ) -> None:
        """Write to ``path``, where nothing is.

        Args:
            path: of a file or folder, whichever the format is.
            weights: parameters and buffers by name.
            model: builds the module, with these weights in it; not called where the format needs no module.
            facts: where the weights come from, for formats that can keep it.
            call: how the model is called, for formats that compute; makes an error where that is not known.

        Raises:
            ModelwrightError: disk full, no permission, or a model that the format does not fit.
        """
        ...


__all__ = ["FORMATS", "ExportFormat"]
