"""What outputs say about each sample, objective by objective."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from modelwright.app.rows.described import describe, scored
from modelwright.base.errors import ModelwrightError
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.data.tokenizers.byte import ByteTokenizer
from modelwright.objectives.binary import Binary
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression

NOTHING = Splits(InMemory({"inputs": torch.zeros(1, 1)}))


def test_targets_that_are_ignored_are_none() -> None:
    logits = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    rows = describe(Classification(), logits, {"targets": torch.tensor([-100, 0])}, NOTHING)
    assert [(row["class"], row["target"]) for row in rows] == [(1, None), (0, 0)]
    assert rows[0]["probability"] == pytest.approx(1 / (1 + math.exp(-2)))
    blank = describe(Classification(), logits, {"targets": torch.tensor([-100, -100])}, NOTHING)
    assert all("target" not in row for row in blank)


def test_classes_go_by_the_names_of_the_data() -> None:
    data = Splits(NOTHING.train, classes=("cat", "dog"))
    logits = torch.tensor([[1.0, 3.0], [2.0, 0.0], [0.0, 1.0]])
    rows = describe(Classification(), logits, {"targets": torch.tensor([1, 1, -100])}, data)
    assert [(row["class"], row["target"]) for row in rows] == [("dog", "dog"), ("cat", "dog"), ("dog", None)]


def test_an_object_with_logits_is_read() -> None:
    outputs = SimpleNamespace(logits=torch.tensor([[0.0, 1.0]]))
    assert describe(Classification(), outputs, {}, NOTHING)[0]["class"] == 1


def test_answers_have_the_probability_of_a_yes() -> None:
    rows = describe(Binary(), torch.tensor([2.0, -1.0]), {"targets": torch.tensor([1.0, 1.0])}, NOTHING)
    assert [row["answer"] for row in rows] == [True, False]
    assert rows[1]["probability"] == pytest.approx(1 / (1 + math.e))
    assert [row["target"] for row in rows] == [1.0, 1.0]


def test_numbers_may_be_several() -> None:
    rows = describe(Regression(), torch.tensor([[1.0, 2.0]]), {"targets": torch.full((1, 2), math.nan)}, NOTHING)
    assert rows == [{"value": [1.0, 2.0]}]


def test_losses_of_windows_add_up_to_those_of_their_record() -> None:
    logits = torch.randn(3, 4, 257, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3, 4], [5, 256, -100, -100], [7, 8, 9, -100]])
    batch = {"targets": targets, "record": torch.tensor([0, 0, 1])}
    data = Splits(InMemory({"inputs": targets}), tokenizer=ByteTokenizer())
    rows = list(scored(iter(describe(NextToken(), logits, batch, data))))
    nats = textbook(logits, targets)
    assert [row["tokens"] for row in rows] == [6, 3]
    assert [row["loss"] for row in rows] == pytest.approx([(nats[0] + nats[1]) / 6, nats[2] / 3], rel=1e-5)
    expected = [(nats[0] + nats[1]) / math.log(2) / 5, nats[2] / math.log(2) / 3]  # an end of text has no bytes
    assert [row["bits_per_byte"] for row in rows] == pytest.approx(expected, rel=1e-5)


def textbook(logits: Tensor, targets: Tensor) -> list[float]:
    shares = logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)
    return [
        -sum(math.log(shares[row, place, token]) for place, token in enumerate(wanted) if token >= 0)
        for row, wanted in enumerate(targets.tolist())
    ]


def test_other_objectives_give_the_outputs_themselves() -> None:
    batch = {"inputs": torch.zeros(2, 3)}
    assert describe(object(), torch.tensor([[1.0], [2.0]]), batch, NOTHING) == [{"output": [1.0]}, {"output": [2.0]}]
    with pytest.raises(ModelwrightError, match="not one for each sample") as caught:
        describe(object(), torch.tensor(1.0), batch, NOTHING)
    assert "modelwright.predict" in caught.value.remedy
