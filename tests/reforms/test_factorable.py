from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from modelwright.base.errors import ModelwrightError
from modelwright.graph import trace
from modelwright.reforms.factorable import layers_of
from modelwright.reforms.factors import factored


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)))  # type: ignore[no-any-return]


class Reader(nn.Module):
    """Reads the weight of one layer by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.body = nn.Linear(6, 4), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * nn.functional.linear(x, self.router.weight).sum(-1, keepdim=True)  # type: ignore[no-any-return]


def test_tied_weights_stay_tied() -> None:
    found = layers_of(Tied())
    assert found.names == ("body",)
    assert "tied to that of 'embedding'" in found.refused["head"]
    assert found.refused["embedding"] == "Embedding has no factors"


def test_a_module_in_two_places_is_not_tied() -> None:
    shared = nn.Linear(6, 6)
    assert layers_of(nn.Sequential(shared, nn.ReLU(), shared)).names == ("0",)


def test_weights_that_others_read_show_in_a_trace() -> None:
    model = Reader()
    found = layers_of(model, graph=trace(model, torch.randn(2, 6)))
    assert found.names == ("body",)
    assert "read outside of it" in found.refused["router"]
    # Without a trace it is not known, and what reads the weight gets the product.
    assert layers_of(model).names == ("router", "body")
    model.router = factored(model.router, rank=4)  # type: ignore[assignment]
    assert model(torch.randn(2, 6)).shape == (2, 6)


def test_what_may_not_be_factored_is_told_with_the_reason() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(6, 6),
            "normed": parametrizations.weight_norm(nn.Linear(6, 6)),
            "hooked": nn.Linear(6, 6),
            "attention": nn.MultiheadAttention(6, 2),
            "up": nn.ConvTranspose2d(3, 3, 2),
            "empty": nn.Linear(6, 6, device="meta"),
            "tiny": nn.Linear(6, 6).to(torch.float8_e4m3fn),
            "norm": nn.LayerNorm(6),
        }
    )
    model["hooked"].register_forward_hook(lambda *_: None)
    found = layers_of(model)
    assert found.names == ("plain",)
    expected = {
        "normed": "computed",
        "hooked": "hooks",
        "attention.out_proj": "reads its weight",
        "attention": "no factors",
        "up": "no factors",
        "empty": "meta",
        "tiny": "float8_e4m3fn",
    }
    for name, words in expected.items():
        assert words in found.refused[name]
    assert not any(name.startswith("norm.") or name == "norm" for name in found.refused)


def test_a_factored_layer_counts_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1] = factored(model[1], rank=2)
    assert layers_of(model).names == ("0", "1")


def test_patterns_choose_and_one_that_fits_nothing_is_a_slip() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    assert layers_of(model, include=["0", "2"], exclude=["2"]).names == ("0",)
    for patterns in ({"include": ["nothing"]}, {"exclude": ["nothing"]}):
        with pytest.raises(ModelwrightError, match="no name fits"):
            layers_of(model, **patterns)


def test_a_model_that_is_one_layer_cannot_be_replaced() -> None:
    assert "model itself" in layers_of(nn.Linear(3, 3)).refused[""]
