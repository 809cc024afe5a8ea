from __future__ import annotations

import pytest
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches
from modelwright.models.gpt import GPT
from modelwright.models.mlp import MLP
from modelwright.models.starts.depth import discriminative_rules, layer_patterns
from modelwright.models.starts.freezing import freeze
from modelwright.optim.adamw import AdamW
from modelwright.optim.rules import GroupRule, apply_rules


def factors(model: nn.Module, decay: float) -> dict[str, float]:
    """What each parameter gets; each is in one rule at most."""
    rules = discriminative_rules(model, decay)
    found = {
        name: [factor for pattern, factor in rules if matches(name, [pattern])] for name, _ in model.named_parameters()
    }
    assert all(len(each) <= 1 for each in found.values())
    return {name: each[0] if each else 1.0 for name, each in found.items()}


def test_rates_shrink_towards_the_inputs() -> None:
    model = GPT(vocabulary=9, layers=12, width=8, heads=2, tied_embeddings=False).build()
    found = factors(model, 0.5)
    assert found["embedding.weight"] == 0.5**13
    assert found["head.weight"] == found["norm.weight"] == 1.0
    for layer in range(12):
        assert found[f"blocks.{layer}.attention.query.weight"] == 0.5 ** (12 - layer)


def test_a_head_in_a_sequence_is_no_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    assert layer_patterns(model) == ["0", "2"]
    assert factors(model, 0.1)["4.weight"] == 1.0


def test_stages_of_a_convolutional_net_follow_each_other() -> None:
    model = nn.Module()
    model.stem = nn.Conv2d(1, 2, 3)
    for stage in ("first", "second"):
        setattr(model, stage, nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)))
    model.fc = nn.Linear(2, 2)
    assert layer_patterns(model) == ["first.0", "first.2", "second.0", "second.2"]
    assert factors(model, 0.5)["stem.bias"] == 0.5**5


def test_the_rules_make_groups_of_an_optimizer_frozen_layers_or_not() -> None:
    model = GPT(vocabulary=9, layers=2, width=8, heads=2, tied_embeddings=False).build()
    freeze(model, ["embedding", "blocks.0"])
    rules = discriminative_rules(model, 0.5)
    assert rules == [("blocks.1.*", 0.5)]
    optimizer = AdamW(lr=1.0).build(model)
    apply_rules(optimizer, model, [GroupRule(names=(pattern,), factor=factor) for pattern, factor in rules])
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[model.get_parameter("blocks.1.attention.query.weight")] == 0.5
    assert rates[model.get_parameter("head.weight")] == 1.0


def test_mistakes_are_told() -> None:
    with pytest.raises(ModelwrightError, match="no repeated layers"):
        discriminative_rules(nn.Linear(2, 2), 0.5)
    with pytest.raises(ModelwrightError, match="above 0"):
        discriminative_rules(MLP(features=2, classes=2).build(), 0.0)
