"""A folder that ``from_pretrained`` of ``transformers`` opens: ``config.json`` and safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from modelwright.export.call import Call
from modelwright.models.hugging_face.folder import save_transformers


def export_folder(
    path: Path,
    weights: Mapping[str, Tensor],
    model: Callable[[], nn.Module],
    facts: Mapping[str, str],
    call: Callable[[], Call],
) -> None:
    """Write the folder of a model of the technique ``transformers``; the format has no place for the ``facts``.

    Raises:
        ModelwrightError: another model, disk full, no permission.
    """
    save_transformers(model(), path)
