"""Changes of models are plain data, and refuse models that they are not of."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from modelwright.base.errors import ModelwrightError
from modelwright.models.change import Change, Edit, Keep, KeepChildren, Replace, SetNumber, apply_all, runs_of


class Tied(nn.Module):
    """One weight in two places, and numbers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.second.weight = self.first.weight
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
        self.register_buffer("seen", torch.arange(6.0))
        self.width, self.sizes, self.many, self.name, self.switch = 6, (4, 6), [1, 2], "tied", True


def change(*edits: Edit) -> Change:
    return Change(kind="test", edits=edits, facts={"why": "to see"})


def test_changes_come_back_from_json_and_do_the_same() -> None:
    edits = (
        Keep(tensor="first.weight", dim=0, runs=((0, 2), (4, 5))),
        Keep(tensor="seen", dim=0, runs=((0, 2), (4, 5))),
        SetNumber(module="", attribute="width", value=3),
        SetNumber(module="", attribute="sizes", value=(4, 3)),
        KeepChildren(module="layers", places=(0, 3)),
        Replace(module="layers.0", by="factored", arguments={"rank": 1}),
    )
    original = Tied()
    recorded = change(*edits)
    again = Change.from_json(json.loads(json.dumps(recorded.to_json())))
    assert again == recorded
    one, other = copy.deepcopy(original), copy.deepcopy(original)
    recorded.apply(one)
    apply_all(other, [again])
    assert [(name, each.shape) for name, each in one.named_parameters()] == [
        (name, each.shape) for name, each in other.named_parameters()
    ]
    assert torch.equal(one.first.weight, original.first.weight[[0, 1, 4]])
    assert one.seen.tolist() == [0, 1, 4]
    assert (one.width, one.sizes) == (3, (4, 3))
    assert one.layers[1].weight is not original.layers[3].weight
    assert torch.equal(one.layers[1].weight, original.layers[3].weight)
    assert original.first.weight.shape == (6, 4)


def test_tied_parameters_stay_tied_whatever_the_name() -> None:
    for name in ("first.weight", "second.weight"):
        model = Tied()
        change(Keep(tensor=name, dim=0, runs=((1, 3),)), Keep(tensor=name, dim=1, runs=((0, 2),))).apply(model)
        assert model.first.weight is model.second.weight
        assert isinstance(model.first.weight, nn.Parameter)
        assert model.first.weight.shape == (2, 2)


def test_a_recurrent_layer_uses_its_new_weights() -> None:
    """It keeps its weights in a list beside their names."""
    model = nn.LSTM(4, 3, batch_first=True)
    smaller = nn.LSTM(3, 3, batch_first=True)
    for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(smaller, name).data = getattr(model, name).data
    smaller.weight_ih_l0.data = model.weight_ih_l0.data[:, [0, 2, 3]]
    edits = (
        Keep(tensor="weight_ih_l0", dim=1, runs=((0, 1), (2, 4))),
        SetNumber(module="", attribute="input_size", value=3),
    )
    change(*edits).apply(model)
    x = torch.randn(2, 5, 3)
    assert torch.equal(model(x)[0], smaller(x)[0])


def test_a_change_applies_without_memory() -> None:
    model = Tied().to("meta")
    model.second.weight = model.first.weight
    change(Keep(tensor="first.weight", dim=0, runs=((0, 2),))).apply(model)
    assert (model.second.weight.shape, model.second.weight.device.type) == ((2, 4), "meta")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Keep(tensor="third.weight", dim=0, runs=((0, 1),)), "no module 'third'"),
        (Keep(tensor="first.bias", dim=0, runs=((0, 1),)), "no tensor 'first.bias'"),
        (Keep(tensor="first.weight", dim=2, runs=((0, 1),)), "cannot be kept"),
        (Keep(tensor="first.weight", dim=0, runs=((0, 7),)), "cannot be kept"),
        (Keep(tensor="first.weight", dim=0, runs=((2, 3), (0, 1))), "cannot be kept"),
        (Keep(tensor="first.weight", dim=0, runs=()), "cannot be kept"),
        (SetNumber(module="", attribute="height", value=3), "holds no 'height'"),
        (SetNumber(module="", attribute="name", value=3), "cannot replace"),
        (SetNumber(module="", attribute="sizes", value=3), "cannot replace"),
        (SetNumber(module="", attribute="first.in_features.real", value=3), "holds no"),
        (SetNumber(module="", attribute="__class__", value=3), "holds no"),
        (KeepChildren(module="layers", places=(0, 4)), "cannot be kept"),
        (KeepChildren(module="first", places=(0,)), "no list of modules"),
        (Replace(module="first", by="os:system"), "foreign code"),
    ],
)
def test_a_change_of_another_model_is_refused(edit: Edit, said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        change(edit).apply(Tied())


def test_a_weight_that_is_computed_is_refused_with_the_remedy() -> None:
    with pytest.raises(ModelwrightError, match="computed from other tensors") as caught:
        change(Keep(tensor="0.weight", dim=0, runs=((0, 1),))).apply(nn.Sequential(weight_norm(nn.Linear(3, 2))))
    assert "remove_parametrizations" in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"kind": "test"}, {"kind": "test", "edits": [{"edit": "erase"}]}, {"edits": 3}])
def test_what_is_no_change_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelwrightError, match="no change of a model"):
        Change.from_json(values)


def test_runs_join_neighbours() -> None:
    assert runs_of([0, 1, 2, 5, 7, 8]) == ((0, 3), (5, 6), (7, 9))
    assert runs_of([]) == ()
