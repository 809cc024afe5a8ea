"""Objectives for inputs of all kinds: yes or no, texts with lengths, outputs that are objects, two sequences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.binary import Binary
from modelwright.objectives.classification import Classification
from modelwright.objectives.features import Features
from modelwright.objectives.metrics.perplexity import Perplexity
from modelwright.objectives.regression import Regression
from modelwright.objectives.sequence_to_sequence import SequenceToSequence


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_binary_equals_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, targets = nn.Linear(4, shape[-1] if len(shape) > 1 else 1).double(), torch.randint(2, shape).to(dtype)
    batch = {"inputs": torch.randn(6, 4, dtype=torch.float64), "targets": targets}
    outputs = Binary().forward(model, batch)
    assert outputs.shape == shape
    expected = functional.binary_cross_entropy_with_logits(outputs, targets.double(), reduction="sum")
    torch.testing.assert_close(Binary().loss(outputs, batch)["cross-entropy"], expected, rtol=1e-12, atol=0)
    weighted = functional.binary_cross_entropy_with_logits(
        outputs, targets.double(), reduction="sum", pos_weight=torch.tensor(3.0)
    )
    total = Binary(positive_weight=3.0).loss(outputs, batch)["cross-entropy"]
    torch.testing.assert_close(total, weighted, rtol=1e-12, atol=0)
    assert Binary().counts(batch)["cross-entropy"].item() == targets.numel()


def test_binary_leaves_out_ignored_targets_and_smooths() -> None:
    logits = torch.tensor([2.0, -1.0, 50.0], dtype=torch.float64, requires_grad=True)
    batch = {"targets": torch.tensor([1.0, 0.25, -100.0])}
    total = Binary(label_smoothing=0.2).loss(logits, batch)["cross-entropy"]
    expected = functional.binary_cross_entropy_with_logits(
        logits[:2], torch.tensor([0.9, 0.3]).double(), reduction="sum"
    )
    torch.testing.assert_close(total, expected, rtol=1e-7, atol=0)
    total.backward()
    assert logits.grad is not None
    assert logits.grad[2] == 0
    assert Binary().counts(batch)["cross-entropy"].item() == 2


def test_mistakes_with_binary_are_explained() -> None:
    with pytest.raises(ModelwrightError, match=r"between 0 and 1, or -100.*not 2") as raised:
        Binary().loss(torch.zeros(2), {"targets": torch.tensor([0, 2])})
    assert "classification" in raised.value.remedy
    with pytest.raises(ModelwrightError, match=r"shape \[6, 2\].*expects \[6\]"):
        Binary().forward(nn.Linear(4, 2), {"inputs": torch.zeros(6, 4), "targets": torch.zeros(6)})
    with pytest.raises(ModelwrightError, match="positive_weight"):
        Binary(positive_weight=0)


class Text(nn.Module):
    """The number of tokens a model sees, as a logit of the second class."""

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        seen = torch.full((len(inputs),), inputs.shape[1]) if lengths is None else lengths
        return torch.stack([torch.zeros_like(seen), seen], -1).float()


class Masked(nn.Module):
    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None, labels: Any = None) -> SimpleNamespace:
        assert attention_mask is not None
        seen = attention_mask.sum(-1)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(seen), seen], -1).float(), loss=None)


class Plain(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return Text()(inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("model", "seen"), [(Text(), [2, 4]), (Masked(), [2, 4]), (Plain(), [5, 5])])
def test_lengths_go_to_models_that_take_them(model: nn.Module, seen: list[int]) -> None:
    batch = {
        "inputs": torch.ones(2, 5, dtype=torch.int64),
        "lengths": torch.tensor([2, 4]),
        "targets": torch.tensor([0, 1]),
    }
    assert Classification().forward(model, batch)[:, 1].tolist() == seen
    outputs = Regression().forward(model, batch | {"targets": torch.zeros(2, 2)})
    assert outputs[:, 1].tolist() == seen


def test_images_have_logits_of_classes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batch = {"inputs": torch.rand(4, 3, 2, 2), "targets": torch.tensor([0, 1, 2, -100])}
    outputs = Classification().forward(model, batch)
    total = Classification().loss(outputs, batch)["cross-entropy"]
    torch.testing.assert_close(total, functional.cross_entropy(outputs, batch["targets"], reduction="sum"))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, inputs: Tensor, input_mask: Tensor, decoder_inputs: Tensor) -> Tensor:
        read = (self.embedding(inputs) * input_mask[..., None]).sum(1, keepdim=True)
        return self.head(self.embedding(decoder_inputs) + read)  # type: ignore[no-any-return]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sequence_to_sequence_equals_torch(smoothing: float) -> None:
    torch.manual_seed(0)
    model = Translator().double()
    batch = {
        "inputs": torch.randint(9, (3, 5)),
        "input_mask": torch.rand(3, 5) > 0.3,
        "decoder_inputs": torch.randint(9, (3, 4)),
        "targets": torch.randint(9, (3, 4)),
    }
    batch["targets"][1, 2:] = -100
    objective = SequenceToSequence(label_smoothing=smoothing)
    outputs = objective.forward(model, batch)
    assert isinstance(outputs, Features)
    logits = model(batch["inputs"], batch["input_mask"], batch["decoder_inputs"])
    expected = functional.cross_entropy(
        logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(objective.loss(outputs, batch)["cross-entropy"], expected, rtol=1e-12, atol=0)
    assert objective.counts(batch)["cross-entropy"].item() == 10
    metric = Perplexity()
    metric.update(outputs, batch)
    assert metric.compute() > 1
    with pytest.raises(ModelwrightError, match="sequence-to-sequence needs 'input_mask'"):
        objective.forward(model, {name: value for name, value in batch.items() if name != "input_mask"})
