"""A small Llama, apart: its library takes long to import."""

from __future__ import annotations

import transformers
from torch import nn


def llama(vocabulary: int) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)
