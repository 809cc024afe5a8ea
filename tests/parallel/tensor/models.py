"""What the tests of the tensor layout divide: the models of the tracer's tests, and some of sizes that matter here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tests.graph import zoo
from torch import Tensor, nn

from modelwright.graph import Graph, trace
from modelwright.models.gpt import GPT

TRANSFORMERS = ("gpt", "gpt-gelu", "vit", "sequence-to-sequence", "gpt2", "llama", "qwen2", "mistral", "bert", "t5")
TRANSFORMERS += ("vit-stock", "whisper")
OTHERS = ("mlp", "convnet", "convnet-batch")


def gpt(**settings: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A small one in float64, and what it reads."""
    torch.manual_seed(0)
    model = GPT(**{"vocabulary": 32, "layers": 2, "width": 16, "heads": 4, **settings}).build().double()
    return model, {"inputs": zoo.tokens(2, 8, below=32)}


def cross_entropy(outputs: Any, example: Mapping[str, Tensor]) -> Tensor:
    """Of predicting each token from itself: a loss over the vocabulary."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), example["inputs"].flatten(), reduction="sum")


class Renamed(nn.Module):
    """A model whose parameters and buffers have names without meaning, in another order, under one module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._hidden = [model]
        self.called: dict[str, str] = {}
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for number, (name, tensor) in enumerate(reversed(named)):
            self.called[name] = f"tensor_{number}"
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(self.called[name], tensor)
            else:
                self.register_buffer(self.called[name], tensor)

    def forward(self, **inputs: Tensor) -> Any:
        own = {name: getattr(self, called) for name, called in self.called.items()}
        return torch.func.functional_call(self._hidden[0], own, (), inputs, tie_weights=False)


def renamed(name: str) -> tuple[Renamed, Graph]:
    """One of the tracer's models under other names, and its graph."""
    model, inputs, _ = zoo.traced(name)
    other = Renamed(copy.deepcopy(model))
    return other, trace(other, inputs, loss=zoo.squares)
