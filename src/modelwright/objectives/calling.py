"""How objectives call models, and read what comes back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.objectives.fields import field


def call(model: nn.Module, batch: Mapping[str, Tensor], name: str, reader: str) -> Any:
    """``model(batch[name])``, with the ``lengths [batch]`` of texts where the batch has and the model takes them.

    A model takes them in an argument ``lengths``, or as the mask they make in an argument ``attention_mask``.
    """
    inputs = field(batch, name, reader)
    if "lengths" not in batch:
        return logits_of(model(inputs))
    names = argument_names(model)
    if "lengths" in names:
        return logits_of(model(inputs, lengths=batch["lengths"]))
    if "attention_mask" in names:
        places = torch.arange(inputs.shape[1], device=inputs.device)
        return logits_of(model(inputs, attention_mask=places < batch["lengths"][:, None]))
    return logits_of(model(inputs))


def argument_names(model: nn.Module) -> frozenset[str]:
    """Names of the arguments of the model's ``forward``."""
    return _argument_names(getattr(model.forward, "__func__", model.forward))


def logits_of(outputs: Any) -> Any:
    """The tensor inside of an object with ``logits``, an attribute or a method; anything else as it is."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = getattr(outputs, "logits", None)
    if callable(logits):
        return logits()
    return outputs if logits is None else logits


@functools.lru_cache(maxsize=64)
def _argument_names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
