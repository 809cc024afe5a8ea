"""Small models of transformers, apart: their library takes long to import."""

from __future__ import annotations

from typing import Any

import transformers
from tests.parallel.pipeline.models import VOCABULARY
from torch import nn

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES, num_key_value_heads=1))


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=8, n_layer=4, n_head=2, resid_pdrop=0, embd_pdrop=0,
            attn_pdrop=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_SIZES, **_QUIET))


def t5() -> nn.Module:
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_decoder_layers=3, num_heads=2,
            dropout_rate=0, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
        )
    )  # fmt: skip
    for module in list(model.modules()):  # its own norm computes in float32, whatever its input
        for name, child in module.named_children():
            if type(child).__name__ == "T5LayerNorm":
                setattr(module, name, nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon))
    return model


def whisper() -> nn.Module:
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=VOCABULARY, num_mel_bins=4, d_model=8, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12,
            max_source_positions=10, max_target_positions=16, dropout=0, pad_token_id=0, bos_token_id=1,
            eos_token_id=2, decoder_start_token_id=1, begin_suppress_tokens=None,
        )
    )  # fmt: skip
