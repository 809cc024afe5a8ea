"""Models of transformers over a divided time, against one process."""

from __future__ import annotations

from typing import Any

from tests.parallel.layouts.test_context import TIME, VOCABULARY, compared, tokens
from tests.world import run_world
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from modelwright.base.world import Mesh
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.layouts.context import Context

HERE = "tests.parallel.layouts.test_context_transformers"


def llama(kernel: str) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation=kernel,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def bert(kernel: str) -> nn.Module:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TIME,
        attn_implementation=kernel,
    )
    return BertForMaskedLM(config).eval()


MODELS = {"llama": llama, "bert": bert}


def compare(mesh: Mesh) -> dict[str, Any]:
    return {
        f"{name} {kernel}": compared(mesh, lambda: make(kernel), NextToken(), tokens, Context())  # noqa: B023
        for name, make in MODELS.items()
        for kernel in ("sdpa", "eager")
    }


def test_losses_and_gradients_are_those_of_one_process() -> None:
    for found in run_world(f"{HERE}:compare", 2, layout={"context": 2}):
        assert len(found) == 4
        for name, result in found.items():
            assert max(result["loss"], result["gradients"]) < 1e-12, (name, result)
            assert result["events"] == []
