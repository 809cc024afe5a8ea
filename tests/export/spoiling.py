"""Exporters that write another model than they are given: what a judge must notice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.export import FORMATS
from modelwright.export.call import Call


def _writer(spoil: Callable[[nn.Module], nn.Module]) -> Callable[..., None]:
    def write(
        path: Path,
        weights: Mapping[str, Tensor],
        model: Callable[[], nn.Module],
        facts: Mapping[str, str],
        call: Callable[[], Call],
    ) -> None:
        form: Any = FORMATS.resolve("torch-export" if path.suffix == ".pt2" else "onnx")
        form(path, weights, lambda: spoil(copy.deepcopy(model())), facts, call)

    return write


def _scaled(model: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(1 + by)
    return model


def _reordered(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(parameter.flip(0))
    return model


class _Elsewhere(nn.Module):
    """Right, except for samples whose first feature is larger than any of the example's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)
        return torch.where(inputs[:, :1] > 2, logits.flip(-1), logits)


within = _writer(lambda model: _scaled(model, 0.9e-4))
beyond = _writer(lambda model: _scaled(model, 1.1e-4))
class_order = _writer(_reordered)
elsewhere = _writer(_Elsewhere)
