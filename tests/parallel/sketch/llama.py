"""A small Llama, apart: its library takes long to import."""

from __future__ import annotations

import transformers
from torch import nn


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)
