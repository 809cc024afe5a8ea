"""Small models with what they read, ours and those of transformers, for the tests of the tracer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.graph import Graph, trace
from modelwright.models.convnet import ConvNet
from modelwright.models.gpt import GPT
from modelwright.models.mlp import MLP
from modelwright.models.sequence_to_sequence import SequenceToSequence
from modelwright.models.text_convolution import TextConvolution
from modelwright.models.vit import ViT

Case = tuple[nn.Module, dict[str, Tensor]]

TEXT = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**TEXT, "intermediate_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 32}


def tokens(*shape: int, below: int = 29) -> Tensor:
    return torch.randint(3, below, shape, generator=torch.Generator().manual_seed(1))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _mlp() -> Case:
    return MLP(features=7, classes=5, hidden=(12, 10)).build(), {"inputs": numbers(3, 7)}


def _gpt() -> Case:
    return GPT(vocabulary=29, layers=2, width=24, heads=4, kv_heads=2).build(), {"inputs": tokens(3, 5)}


def _gpt_gelu() -> Case:
    model = GPT(vocabulary=29, layers=2, width=24, heads=4, activation="gelu", qk_norm=True, tied_embeddings=False)
    return model.build(), {"inputs": tokens(3, 5)}


def _convnet() -> Case:
    return ConvNet(channels=3, classes=5, widths=(8, 12), depths=(1, 2), groups=4).build(), {
        "inputs": numbers(2, 3, 8, 8)
    }


def _convnet_batch() -> Case:
    model = ConvNet(channels=3, classes=5, widths=(8, 12), depths=(1, 1), norm="batch").build().eval()
    return model, {"inputs": numbers(2, 3, 8, 8)}


def _vit() -> Case:
    model = ViT(channels=3, image_size=8, classes=5, layers=2, width=24, heads=4, pooling="cls").build()
    return model, {"inputs": numbers(2, 3, 8, 8)}


def _text_convolution() -> Case:
    model = TextConvolution(vocabulary=29, classes=5, width=12, spans=(2, 3), filters=7, dropout=0.0).build()
    return model, {"inputs": tokens(3, 9), "lengths": torch.tensor([9, 5, 7])}


def _sequence_to_sequence() -> Case:
    settings = {"vocabulary": 29, "encoder_layers": 2, "decoder_layers": 2, "width": 24, "heads": 4, "dropout": 0.0}
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = False
    inputs = {"inputs": tokens(3, 7), "input_mask": mask, "decoder_inputs": tokens(3, 5)}
    return SequenceToSequence(**settings).build(), inputs


class Odd(nn.Module):
    """What the other models lack: one after the other, so that each must hand on what the one before it did."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.ConvTranspose2d(16, 12, 2, stride=2, groups=4)
        self.batch_norm = nn.BatchNorm2d(12)
        self.joined = nn.Conv2d(12 + 8, 6, 1)
        self.merged = nn.Linear(4 * 6, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.recurrent = nn.LSTM(8, 10, batch_first=True)
        self.mixing = nn.Parameter(torch.randn(2, 5, 4))
        self.head = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.batch_norm(self.grouped(self.depthwise(x).relu()))
        y = self.joined(torch.cat((y, nn.functional.interpolate(x, scale_factor=2)), 1)).amax((2,), keepdim=True)
        corners = torch.cat((y[..., 0::2], y[..., 1::2], y[..., 0::2] * 2, y[..., 1::2].abs()), 1)
        sequence = self.encoder(self.merged(corners.flatten(2).transpose(1, 2)))
        states, _ = self.recurrent(sequence)
        mixed = torch.einsum("bthd,hde->bthe", states.view(*states.shape[:2], 2, 5), self.mixing).softmax(-1)
        mixed = torch.stack((mixed, mixed.roll(0)), -1).mean(-1).repeat(1, 1, 1, 2)[..., :4]
        pooled = states.unbind(1)[-1] + mixed.sum((1, 3)).repeat_interleave(5, 1)
        return self.head(torch.cat((pooled, sequence.mean(1)), -1))


def _odd() -> Case:
    return Odd(), {"x": numbers(2, 3, 4, 4)}


OURS: dict[str, Callable[[], Case]] = {
    "mlp": _mlp,
    "gpt": _gpt,
    "gpt-gelu": _gpt_gelu,
    "convnet": _convnet,
    "convnet-batch": _convnet_batch,
    "vit": _vit,
    "text-convolution": _text_convolution,
    "odd": _odd,
    "sequence-to-sequence": _sequence_to_sequence,
}

_IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}

STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}),
    "bert": ("BertForSequenceClassification", {**TEXT, "intermediate_size": 40, "max_position_embeddings": 32}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    "llama": ("LlamaForCausalLM", DECODER),
    "qwen2": ("Qwen2ForCausalLM", DECODER),
    "mistral": ("MistralForCausalLM", DECODER),
    "phi3": ("Phi3ForCausalLM", {**DECODER, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 50, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4},
    ),
    "vit-stock": (
        "ViTForImageClassification",
        {**_IMAGE, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 50, "num_mel_bins": 8, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
            "max_source_positions": 8, "max_target_positions": 16, "pad_token_id": 0, "decoder_start_token_id": 1,
        },
    ),
    "bloom": ("BloomForCausalLM", {"vocab_size": 50, "hidden_size": 24, "n_layer": 2, "n_head": 4}),
    "mobilenet": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25, "min_depth": 4}),
}  # fmt: skip


def stock(name: str) -> Case:
    """A model of transformers with random weights and its inputs, dropout off."""
    transformers = pytest.importorskip("transformers")
    class_name, settings = STOCK[name]
    kind = getattr(transformers, class_name)
    torch.manual_seed(0)
    config = kind.config_class(**settings)
    config.use_cache = False
    return kind(config).eval(), _stock_inputs(name)


def _stock_inputs(name: str) -> dict[str, Tensor]:
    if name in ("resnet", "vit-stock"):
        return {"pixel_values": numbers(2, 3, 8, 8) if name == "vit-stock" else numbers(2, 3, 32, 32)}
    if name == "mobilenet":
        return {"pixel_values": numbers(2, 3, 32, 32)}
    if name == "whisper":
        return {"input_features": numbers(2, 8, 16), "decoder_input_ids": tokens(2, 5)}
    if name == "t5":
        return {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5)}
    mask = torch.ones(2, 7, dtype=torch.int64)
    return {"input_ids": tokens(2, 7), "attention_mask": mask}


def case(name: str) -> Case:
    """The model called ``name`` in float64, every number of it random, and what it reads."""
    model, inputs = OURS[name]() if name in OURS else stock(name)
    model = model.double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model, inputs


class InDouble(TorchDispatchMode):
    """Code that goes to float32 for a while goes to float64, so that it is exact."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") == torch.float32:
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


def first_output(outputs: Any) -> Tensor:
    """The tensor that a model is for."""
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def squares(outputs: Any, example: Any) -> Tensor:
    """A loss for any model."""
    return first_output(outputs).square().sum()


@cache
def traced(name: str) -> tuple[nn.Module, dict[str, Tensor], Graph]:
    """The model called ``name``, what it reads, and its graph with the backward pass; not to be altered."""
    model, inputs = case(name)
    model.eval()
    return model, inputs, trace(model, inputs, loss=squares)


NAMES = (*OURS, *STOCK)
