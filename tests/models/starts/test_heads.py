from __future__ import annotations

import pytest
import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.models.mlp import MLP
from modelwright.models.starts.heads import find_head, replace_head


def convolutional() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    return nn.Sequential(body, nn.Conv2d(4, 5, 1, bias=False))


def with_container() -> nn.Module:
    model = nn.Module()
    model.classifier = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model.after = nn.Linear(2, 2)
    return model


def test_the_head_is_found_by_its_name_or_its_place() -> None:
    assert find_head(MLP(features=3, classes=2).build()) == "head"
    assert find_head(convolutional()) == "1"
    assert find_head(with_container()) == "classifier.2"
    assert find_head(with_container(), "after") == "after"
    assert find_head(with_container(), "classifier") == "classifier.2"


def test_a_new_head_has_the_classes_and_the_rest_stays() -> None:
    model = MLP(features=3, classes=2, hidden=(4,)).build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert replace_head(model, 7, seed=3) == "head"
    assert model(torch.zeros(1, 3)).shape == (1, 7)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before if "head" not in name)


def test_new_values_follow_from_the_seed_and_leave_the_generator_alone() -> None:
    first, second, other = (MLP(features=3, classes=2).build() for _ in range(3))
    state = torch.random.get_rng_state()
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        replace_head(model, 5, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_convolution_keeps_its_shape_but_for_the_classes() -> None:
    model = convolutional()
    replace_head(model.double(), 9)
    assert isinstance(model[1], nn.Conv2d)  # type: ignore[index]
    assert model[1].bias is None  # type: ignore[index]
    assert model(torch.zeros(2, 1, 5, 5, dtype=torch.float64)).shape == (2, 9, 3, 3)


def test_mistakes_are_told() -> None:
    with pytest.raises(ModelwrightError, match="no module 'classifer'") as raised:
        find_head(with_container(), "classifer")
    assert raised.value.remedy == "did you mean 'classifier'?"
    with pytest.raises(ModelwrightError, match="no linear"):
        find_head(nn.Sequential(nn.ReLU()))
    with pytest.raises(ModelwrightError, match=r"tied to 'embedding\.weight'"):
        replace_head(GPT(vocabulary=9, layers=1, width=8, heads=2).build(), 3)
    with pytest.raises(ModelwrightError, match="at least 1"):
        replace_head(convolutional(), 0)
