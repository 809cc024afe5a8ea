"""Which models are told of several documents in a window, and which are refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.objectives.features import Features
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.packing import borders, restarted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

from modelwright.models.hugging_face.model import Transformers

LENGTHS = ((5, 1, 7, 3), (16,), (1, 1, 14))
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "mistral": SIZES | {"sliding_window": 4, "head_dim": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
}
MIXING = {
    "mamba": {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
}


def packed() -> dict[str, Tensor]:
    rows = [[(n, place) for n, length in enumerate(row) for place in range(length)] for row in LENGTHS]
    segments, positions = torch.tensor(rows).unbind(-1)
    tokens = torch.randint(29, (3, 17), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return {"inputs": inputs, "targets": targets, "segments": segments, "positions": positions}


def technique(kind: str, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    config = {"model_type": kind, **(CONFIGS | MIXING)[kind]}
    return Transformers(config=config, vocabulary=29, **fields).build().double().eval()


def loss_and_gradients(model: nn.Module, batch: dict[str, Tensor], **fields: Any) -> list[Tensor]:
    model.zero_grad()
    objective = NextToken(**fields)
    total = objective.loss(objective.forward(model, batch), batch)["cross-entropy"]
    total.backward()  # type: ignore[no-untyped-call]
    return [total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def one_by_one(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """Sums over the documents, each in a forward pass of its own, as a batch without segments."""
    sums: list[Tensor] = []
    for row, lengths in enumerate(LENGTHS):
        parts = (batch[name][row].split(list(lengths)) for name in ("inputs", "targets"))
        for inputs, targets in zip(*parts, strict=True):
            found = loss_and_gradients(model, {"inputs": inputs[None], "targets": targets[None]}, logits="full")
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    return sums


@pytest.mark.parametrize("logits", ["full", "chunked"])
@pytest.mark.parametrize("kind", ["gpt", *CONFIGS])
def test_documents_in_a_window_give_what_each_gives_alone(kind: str, logits: str) -> None:
    batch = packed()
    torch.manual_seed(0)
    gpt = GPT(vocabulary=29, layers=2, width=24, heads=4).build().double()
    model = gpt if kind == "gpt" else technique(kind)
    found, expected = loss_and_gradients(model, batch, logits=logits), one_by_one(model, batch)
    joined = loss_and_gradients(model, {name: batch[name] for name in ("inputs", "targets")}, logits=logits)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(joined, expected, strict=True))  # the test can fail


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_the_formula_of_transformers_keeps_documents_apart_too(kind: str) -> None:
    """It takes its softmax in float32."""
    model = technique(kind, attention="eager")
    for mine, reference in zip(loss_and_gradients(model, packed()), one_by_one(model, packed()), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_a_model_of_transformers_as_it_is() -> None:
    """Not built by the technique: it would keep keys and values, and then not look at the positions."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=29, **CONFIGS["gpt2"])
    model = transformers.GPT2LMHeadModel(config).double().eval()
    assert isinstance(NextToken().forward(model, packed()), Features)
    for mine, reference in zip(loss_and_gradients(model, packed()), one_by_one(model, packed()), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


class Averaging(nn.Module):
    """Reads everything before; takes what ``transformers`` calls positions, and makes nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mixed, self.dropout = nn.Embedding(29, 8), nn.Linear(8, 8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 29)

    def forward(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        x = self.dropout(self.embedding(tokens))
        return self.head(x + self.mixed(x.cumsum(1)))


class Alone(Averaging):
    def forward(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        return self.head(self.embedding(tokens))


class Counting(Averaging):
    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.head(self.embedding(tokens + (0 if segments is None else segments)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Embedding(29, 29)), "neither 'segments' nor 'position_ids'"),
        (lambda: technique("mamba", attention="eager"), "neither 'segments' nor 'position_ids'"),
        (lambda: technique("bloom", attention="eager"), "neither 'segments' nor 'position_ids'"),
        (Averaging, "still depend on the document before"),
    ],
)
def test_models_that_would_mix_documents_are_refused(make: Any, reason: str) -> None:
    model = make()
    for _ in range(2):
        with pytest.raises(ModelwrightError, match=reason) as caught:
            NextToken().forward(model, packed())
    assert caught.value.where == "model"
    assert "data.documents to joined" in caught.value.remedy


def test_branches_that_begin_at_zero_hide_nothing() -> None:
    """Fresh weights of zero would let any model pass; they are put back to the bit."""
    model = Averaging()
    with torch.no_grad():
        model.mixed.weight.fill_(-0.0)
    with pytest.raises(ModelwrightError, match="still depend"):
        borders(model, packed())
    assert torch.equal(model.mixed.weight.signbit(), torch.ones(8, 8, dtype=torch.bool))
    assert not model.mixed.weight.any()
    assert borders(Alone(), packed())["position_ids"].shape == (3, 16)


def test_a_trial_leaves_no_trace() -> None:
    model = Averaging()
    model.dropout.eval()
    state = torch.get_rng_state()
    with pytest.raises(ModelwrightError):
        borders(model, packed())
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model.dropout.training, model.head.training) == (True, False, True)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_of_ones_own_gets_what_it_takes() -> None:
    batch = packed()
    assert set(borders(Counting(), batch)) == {"segments"}
    assert borders(Counting(), {"inputs": batch["inputs"]}) == {}
    expected = Counting().forward(batch["inputs"], batch["segments"])
    assert NextToken(logits="full").forward(Counting(), batch).shape == expected.shape


def test_positions_restart_where_segments_change() -> None:
    batch = packed()
    assert torch.equal(restarted(batch["segments"]), batch["positions"])
    assert restarted(torch.tensor([[3, 3, 1, 1, 1, 3]])).tolist() == [[0, 1, 0, 1, 2, 0]]
