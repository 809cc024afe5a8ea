"""The safetensors format: weights by name, no code, no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from modelwright.base.files import replacing
from modelwright.base.tensor_file import write_tensors
from modelwright.export.call import Call
from modelwright.models.source import save_named


def export_weights(weights: Mapping[str, Tensor], path: Path) -> Path:
    """Write the parameters and buffers of a model under its own names, atomically.

    Raises:
        ModelwrightError: disk full, no permission.
    """
    save_named(weights, path)
    return path


def export_tensors(
    path: Path,
    weights: Mapping[str, Tensor],
    model: Callable[[], nn.Module],
    facts: Mapping[str, str],
    call: Callable[[], Call],
) -> None:
    """Write one file with every name of the module's ``state_dict``, tied ones among them.

    So ``model.load_state_dict(safetensors.torch.load_file(path))`` takes it as it is. The header's metadata holds the
    ``facts``.

    Raises:
        ModelwrightError: disk full, no permission.
    """
    with replacing(path) as temporary:
        write_tensors(weights, temporary, {"format": "pt", **facts})
