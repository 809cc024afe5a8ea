"""The safetensors format: weights by name, no code, no pickle."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from modelwright.models.source import save_weights


def export_weights(model: nn.Module, path: Path) -> Path:
    """Write the parameters and buffers of ``model`` under its own names, atomically.

    Raises:
        ModelwrightError: disk full, no permission.
    """
    save_weights(model, path)
    return path
