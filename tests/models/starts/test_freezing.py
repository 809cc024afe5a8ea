from __future__ import annotations

import pytest
import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.models.gpt import GPT
from modelwright.models.starts.freezing import freeze
from modelwright.optim.adamw import AdamW


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_frozen_parameters_stay_and_the_others_learn() -> None:
    model = GPT(vocabulary=9, layers=2, width=8, heads=2).build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = freeze(model, ["embedding", "blocks.0"])
    optimizer = AdamW(weight_decay=0.1).build(model)
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    optimizer.step()
    assert set(frozen) >= {"embedding.weight", "head.weight", "blocks.0.attention.query.weight"}  # the head is tied
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in frozen), name


def test_exceptions_learn() -> None:
    model = normed()
    assert freeze(model, ["*"], except_=["3"]) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert model[3].weight.requires_grad


def test_a_frozen_batch_norm_stands_still_and_dropout_goes_on() -> None:
    model, learning, events = normed(), normed(), list[Event]()
    with listening(events.append):
        freeze(model, ["0", "1"])
    assert [event.kind for event in events] == ["frozen", "batch-norms-frozen"]
    assert events[0].details["numbers"] == 3 * 4 + 4 + 4 + 4
    for each in (model, learning):
        each(torch.randn(8, 3))
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert not torch.equal(learning[1].running_mean, torch.zeros(4))
    assert model[2].training


def test_a_batch_norm_that_still_learns_goes_on() -> None:
    model = normed()
    freeze(model, ["1"], except_=["1.bias"])
    assert model[1].training


def test_a_pattern_that_fits_nothing_is_refused_and_nothing_is_frozen() -> None:
    model = GPT(vocabulary=9, layers=1, width=8, heads=2).build()
    with pytest.raises(ModelwrightError, match=r"no name fits the pattern 'block\.0'") as raised:
        freeze(model, ["embedding", "block.0"])
    assert raised.value.remedy == "did you mean 'blocks.0'?"
    assert all(parameter.requires_grad for parameter in model.parameters())
