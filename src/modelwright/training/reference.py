"""What an objective compares with: the same in every sitting, or the loss would become another without a word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives import Objective


class Reference:
    """A frozen model, known by the bytes of its tensors; its weights are not saved.

    Args:
        model: never trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hash: str | None = None

    def state(self) -> dict[str, Any]:
        """The hash of its tensors."""
        if self._hash is None:
            self._hash = _hash(self._model)
        return {"sha256": self._hash}

    def load(self, state: Mapping[str, Any]) -> None:
        """Compare with what :meth:`state` described.

        Raises:
            ModelwrightError: this is another model.
        """
        if state != self.state():
            raise ModelwrightError(
                "the objective compares with other weights than before: training began from others than these",
                where="objective.reference",
                remedy="give the model with the weights that training began from; where the run it starts from has "
                "been trained on, restore that",
            )


def reference_of(configured: Objective, objective: Objective) -> Reference | None:
    """The model that ``objective`` took from the start of training, as ``configured`` asked; ``None`` without one."""
    model = getattr(objective, "reference", None)
    return Reference(model) if hasattr(configured, "build") and isinstance(model, nn.Module) else None


def _hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
