"""Small models with batches and objectives, by name, for pipelines and the one process they are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.choice import import_path
from modelwright.models.convnet import ConvNet
from modelwright.models.gpt import GPT
from modelwright.models.vit import ViT
from modelwright.objectives import Objective
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression

VOCABULARY = 23
Batch = dict[str, Tensor]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.inner = nn.Sequential(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.inner(self.up(x)))


class ResidualMLP(nn.Module):
    """Blocks with code between them, which changes what they return in place."""

    def __init__(self, blocks: int = 9) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.gain = nn.Parameter(torch.ones(6))
        self.blocks = nn.ModuleList(Residual(6) for _ in range(blocks))

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
            x += 0.1 * self.gain
        return self.head(x)


class Languages:
    """Next tokens by a model that takes its arguments by name."""

    coefficients = {"cross-entropy": 1.0}  # noqa: RUF012
    metrics = ()
    names: tuple[str, ...] = ("input_ids", "attention_mask")

    def counts(self, batch: Batch) -> Batch:
        return {"cross-entropy": (batch["targets"] != -100).sum()}

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        given = {name: batch[name] for name in self.names}
        return model(**given).logits

    def loss(self, outputs: Tensor, batch: Batch) -> Batch:
        flat = outputs.flatten(0, 1)
        return {"cross-entropy": nn.functional.cross_entropy(flat, batch["targets"].flatten(), reduction="sum")}


class Translation(Languages):
    names = ("input_ids", "attention_mask", "decoder_input_ids")


class Speech(Languages):
    names = ("input_features", "decoder_input_ids")


def _tokens(samples: int, time: int = 7) -> Tensor:
    return torch.randint(3, VOCABULARY, (samples, time))


def _targets(samples: int, time: int = 7) -> Tensor:
    targets = _tokens(samples, time)
    targets[torch.rand(samples, time) < 0.4] = -100
    targets[0, 0] = 5
    return targets


def _text(samples: int, time: int = 7) -> Batch:
    return {"inputs": _tokens(samples, time), "targets": _targets(samples, time)}


def _language(samples: int, time: int = 7) -> Batch:
    mask = torch.ones(samples, time, dtype=torch.long)
    mask[0, -2:] = 0
    return {"input_ids": _tokens(samples, time), "attention_mask": mask, "targets": _targets(samples, time)}


def _translation(samples: int, time: int = 7) -> Batch:
    return {**_language(samples, time + 2), "decoder_input_ids": _tokens(samples, time)} | {
        "targets": _targets(samples, time)
    }


def _speech(samples: int, time: int = 7) -> Batch:
    features = torch.randn(samples, 4, 20, dtype=torch.float64)
    return {
        "input_features": features,
        "decoder_input_ids": _tokens(samples, time),
        "targets": _targets(samples, time),
    }


def _images(samples: int, size: int = 8) -> Batch:
    return {
        "inputs": torch.randn(samples, 3, size, size, dtype=torch.float64),
        "targets": torch.randint(0, 4, (samples,)),
    }


def _rows(samples: int, width: int = 3) -> Batch:
    return {
        "inputs": torch.randn(samples, width, dtype=torch.float64),
        "targets": torch.randn(samples, 2, dtype=torch.float64),
    }


def _gpt(tied: bool) -> nn.Module:
    return GPT(vocabulary=VOCABULARY, layers=4, width=8, heads=2, hidden=12, tied_embeddings=tied).build()


def _stock(name: str) -> nn.Module:
    return import_path(f"tests.parallel.pipeline.stock:{name}")()


def make(name: str, seed: int = 0) -> tuple[nn.Module, Objective, Any]:
    """The model in float64, its objective, and a function that makes a batch of so many samples."""
    torch.manual_seed(seed)
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "gpt-tied": (lambda: _gpt(True), NextToken(logits="chunked"), _text),
        "gpt": (lambda: _gpt(False), NextToken(), _text),
        "residual": (ResidualMLP, Regression(), _rows),
        "convnet": (
            lambda: ConvNet(channels=3, classes=4, widths=(4, 8), depths=(2, 2), groups=2, norm="group").build(),
            Classification(),
            _images,
        ),
        "vit": (
            lambda: ViT(channels=3, image_size=8, classes=4, layers=4, width=8, heads=2).build(),
            Classification(),
            _images,
        ),
        "llama": (lambda: _stock("llama"), Languages(), _language),
        "gpt2": (lambda: _stock("gpt2"), Languages(), _language),
        "bert": (lambda: _stock("bert"), Languages(), _language),
        "t5": (lambda: _stock("t5"), Translation(), _translation),
        "whisper": (lambda: _stock("whisper"), Speech(), _speech),
    }
    build, objective, batch = kinds[name]
    model = build().double()
    with torch.no_grad():  # nothing may begin at zero, where errors would not show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model, objective, batch
