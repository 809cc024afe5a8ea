"""Small models and how they are called: our own, and those of ``transformers`` from small configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.models.convnet import ConvNet
from modelwright.models.gpt import GPT
from modelwright.models.mlp import MLP
from modelwright.models.sequence_to_sequence import SequenceToSequence
from modelwright.models.vit import ViT

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokens(batch: int = 3, length: int = 9) -> Tensor:
    return torch.randint(2, 61, (batch, length), generator=torch.Generator().manual_seed(batch + 100 * length))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def mask(batch: int, length: int) -> Tensor:
    """Of samples that end in padding, the last more than the first."""
    return (torch.arange(length) < length - torch.arange(batch)[:, None] % length).long()


@dataclass(frozen=True)
class Case:
    """A model, and its arguments for a batch and a length; ``other`` is another length than 9, where there is one."""

    build: Callable[[], nn.Module]
    arguments: Callable[[int, int], dict[str, Tensor]]
    other: int = 9

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()


def image(batch: int, length: int) -> dict[str, Tensor]:
    return {"inputs": numbers(batch, 3, 16, 16)}


def text(batch: int, length: int) -> dict[str, Tensor]:
    return {"inputs": tokens(batch, length)}


def pair(batch: int, length: int) -> dict[str, Tensor]:
    """A source of twice the length, and a target."""
    source = mask(batch, 2 * length).bool()
    return {"inputs": tokens(batch, 2 * length), "input_mask": source, "decoder_inputs": tokens(batch, length)}


def spatial(batch: int, length: int) -> dict[str, Tensor]:
    return {"inputs": numbers(batch, 3, 2 * length, 16)}


VIT = {"channels": 3, "image_size": 16, "classes": 4, "layers": 2, "width": 16, "heads": 2}
CONVNET = {"channels": 3, "classes": 4, "image_size": 16, "widths": (8, 16), "depths": (1, 1)}
OWN = {
    "mlp": Case(MLP(features=8, classes=3, hidden=(16,)).build, lambda batch, _: {"inputs": numbers(batch, 8)}),
    "convnet": Case(ConvNet(**CONVNET, norm="batch").build, spatial, other=13),
    "vit": Case(ViT(**VIT, pooling="cls").build, image),
    "gpt": Case(GPT(vocabulary=61, layers=2, width=16, heads=2).build, text, other=17),
    "gpt-experts": Case(GPT(vocabulary=61, layers=1, width=16, heads=2, experts=4).build, text, other=4),
    "transformer": Case(
        SequenceToSequence(vocabulary=61, encoder_layers=1, decoder_layers=1, width=16, heads=2).build, pair, other=14
    ),
}


def hugging_face(kind: str, auto: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    model: nn.Module = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **config))
    return model


WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
THEIRS = {
    "llama": Case(
        lambda: hugging_face("llama", "AutoModelForCausalLM", vocab_size=61, num_key_value_heads=2, **SMALL),
        lambda batch, length: {"input_ids": tokens(batch, length)},
        other=17,
    ),
    "bert": Case(
        lambda: hugging_face("bert", "AutoModelForMaskedLM", vocab_size=61, **SMALL),
        lambda batch, length: {"input_ids": tokens(batch, length), "attention_mask": mask(batch, length)},
        other=4,
    ),
    "vit": Case(
        lambda: hugging_face("vit", "AutoModelForImageClassification", image_size=16, patch_size=4, **SMALL),
        lambda batch, _: {"pixel_values": numbers(batch, 3, 16, 16)},
    ),
    "t5": Case(
        lambda: hugging_face("t5", "AutoModelForSeq2SeqLM", vocab_size=61, **T5),
        lambda batch, length: {"input_ids": tokens(batch, 9), "decoder_input_ids": tokens(batch, length)},
        other=5,
    ),
    "whisper": Case(
        lambda: hugging_face("whisper", "AutoModelForSpeechSeq2Seq", vocab_size=61, **WHISPER),
        lambda batch, length: {
            "input_features": numbers(batch, 8, 40),
            "decoder_input_ids": tokens(batch, length),
        },
        other=5,
    ),
}
