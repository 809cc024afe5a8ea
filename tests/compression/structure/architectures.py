"""Small models of many architectures with what they read: those of the tracer's tests and more of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.graph import zoo
from tests.graph.zoo import DECODER, TEXT, numbers, tokens
from torch import Tensor, nn

Inputs = dict[str, Any]
_VISION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
_PATCHES = {"image_size": 8, "patch_size": 4, "num_channels": 3, **_VISION}
_ENCODER = {**TEXT, "intermediate_size": 40, "max_position_embeddings": 32}
_BART = {
    "vocab_size": 50, "d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_SPEECH = {
    "vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "conv_dim": (12, 16), "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False,
}  # fmt: skip
_ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}

MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": (
        "ConvNextForImageClassification",
        {"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 2], "patch_size": 2},
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        {"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 2], "patch_size": 2},
    ),
    "swin": (
        "SwinForImageClassification",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 2,
            "mlp_ratio": 2.0,
        },
    ),
    "deit": ("DeiTForImageClassification", _PATCHES),
    "beit": ("BeitForImageClassification", _PATCHES),
    "dinov2": ("Dinov2ForImageClassification", _PATCHES),
    "segformer": (
        "SegformerForImageClassification",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 12],
            "num_attention_heads": [2, 3],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 10,
        },
    ),
    "mobilenetv1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25, "min_depth": 4}),
    "regnet": (
        "RegNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "groups_width": 4, "layer_type": "x"},
    ),
    "roberta": ("RobertaForSequenceClassification", {**_ENCODER, "pad_token_id": 1}),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 50, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 32},
    ),
    "albert": ("AlbertForSequenceClassification", {**_ENCODER, "embedding_size": 10}),
    "electra": ("ElectraForSequenceClassification", {**_ENCODER, "embedding_size": 10}),
    "mpnet": ("MPNetForSequenceClassification", _ENCODER),
    "deberta-v2": ("DebertaV2ForSequenceClassification", {**_ENCODER, "relative_attention": False}),
    "gpt-neox": ("GPTNeoXForCausalLM", {**_ENCODER, **_ENDS}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 50,
            "hidden_size": 24,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 32,
            "intermediate_size": 40,
            **_ENDS,
        },
    ),
    "gptj": (
        "GPTJForCausalLM",
        {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 32, **_ENDS},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**DECODER, "head_dim": 6}),
    "gemma": ("GemmaForCausalLM", {**DECODER, "head_dim": 6, **_ENDS}),
    "gemma2": ("Gemma2ForCausalLM", {**DECODER, "head_dim": 6, **_ENDS}),
    "mixtral": (
        "MixtralForCausalLM",
        {**DECODER, "num_local_experts": 3, "experts_implementation": "batched_mm", **_ENDS},
    ),
    "phi": ("PhiForCausalLM", {**DECODER, "hidden_size": 32, **_ENDS}),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": 50,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 40,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 24,
            **_ENDS,
        },
    ),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, **_ENDS},
    ),
    "olmo2": ("Olmo2ForCausalLM", {**DECODER, **_ENDS}),
    "stablelm": ("StableLmForCausalLM", {**DECODER, **_ENDS}),
    "granite": ("GraniteForCausalLM", {**DECODER, **_ENDS}),
    "starcoder2": ("Starcoder2ForCausalLM", {**DECODER, **_ENDS}),
    "bart": ("BartForConditionalGeneration", _BART),
    "mbart": ("MBartForConditionalGeneration", _BART),
    "wav2vec2": ("Wav2Vec2ForCTC", _SPEECH),
    "hubert": ("HubertForCTC", _SPEECH),
    "clip-vision": ("CLIPVisionModelWithProjection", {**_PATCHES, "projection_dim": 10}),
    "clip-text": ("CLIPTextModelWithProjection", {**_ENCODER, "projection_dim": 10, **_ENDS}),
}

NAMES = (*zoo.NAMES, *MORE)


def case(name: str) -> tuple[nn.Module, Inputs]:
    """The model called ``name`` in float64 and evaluation mode, every number of it random, and what it reads."""
    if name not in MORE:
        model, inputs = zoo.case(name)
        return model.eval(), inputs
    transformers = pytest.importorskip("transformers")
    class_name, settings = MORE[name]
    kind = getattr(transformers, class_name)
    torch.manual_seed(0)
    config = kind.config_class(**settings)
    config.use_cache = False
    model = kind(config).double().eval()
    _shake(model)
    return model, _inputs(name)


def _shake(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator, dtype=torch.float64))


def _inputs(name: str) -> Inputs:
    if name in ("convnext", "convnextv2", "swin", "segformer", "mobilenetv1", "regnet"):
        size = {"swin": 16, "segformer": 16}.get(name, 32)
        return {"pixel_values": numbers(2, 3, size, size)}
    if name in ("deit", "beit", "dinov2", "clip-vision"):
        return {"pixel_values": numbers(2, 3, 8, 8)}
    if name in ("wav2vec2", "hubert"):
        return {"input_values": numbers(2, 64)}
    if name in ("bart", "mbart"):
        return {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5)}
    return {"input_ids": tokens(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}


def read(outputs: Any) -> Tensor:
    """The tensor that a model is for."""
    if isinstance(outputs, Tensor):
        return outputs
    return next(outputs[each] for each in ("logits", "image_embeds", "text_embeds") if each in outputs)


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """For :class:`Units`: what the tests look at."""
    return read(model(**inputs))
