"""Language models of ``transformers``, as they are: their own loss is the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelwright.objectives.features import Features
from modelwright.objectives.next_token import NextToken

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.mark.parametrize(("family", "chunked"), [("Llama", True), ("Gemma2", False)])
def test_loss_and_gradients_are_those_of_transformers(family: str, chunked: bool) -> None:
    """Gemma 2 bends its logits behind the head, so these are needed in full."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**SIZES)).eval()
    tokens = torch.randint(50, (3, 9))
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:].contiguous()}
    outputs = NextToken().forward(model, batch)
    assert isinstance(outputs, Features) is chunked
    total = NextToken().loss(outputs, batch)["cross-entropy"]
    expected = 24 * model(input_ids=tokens, labels=tokens).loss
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    parameters = list(model.parameters())
    mine, theirs = (torch.autograd.grad(loss, parameters) for loss in (total, expected))
    for gradient, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)
