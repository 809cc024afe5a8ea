from __future__ import annotations

from modelwright.recipe import load_recipe
from modelwright.recipe.changes import Change, below, changes, told

TEXT = """
model: {use: mlp, hidden: [16]}
data: sklearn
objective: classification
optimizer: {use: adamw, lr: 0.1}
batch: 32
budget: {steps: 12}
"""


def differing(*overrides: str) -> list[Change]:
    return changes(load_recipe(TEXT), load_recipe(TEXT, overrides))


def test_values_that_differ_by_their_paths() -> None:
    assert differing() == []
    assert differing("batch=32") == []
    assert differing("batch=64", "optimizer.lr=0.2", "model.hidden=[16,16]") == [
        Change("model.hidden", [16], [16, 16]),
        Change("optimizer.lr", 0.1, 0.2),
        Change("batch", 32, 64),
    ]


def test_what_one_of_the_two_lacks_is_none() -> None:
    assert differing("budget.epochs=3") == [Change("budget.steps", 12, None), Change("budget.epochs", None, 3.0)]
    assert Change("averaging", None, None) not in differing("averaging=ema")
    assert {change.path for change in differing("averaging=ema")} >= {"averaging.use", "averaging.decay"}


def test_another_technique_is_told_by_its_name_alone() -> None:
    found = differing("optimizer=sgd", "batch=64")
    assert len(found) > 3
    assert {change.path for change in told(found)} == {"optimizer.use", "batch"}


def test_below() -> None:
    assert below("saving.every", ("saving",)) and below("saving", ("saving",))
    assert not below("savings", ("saving",)) and not below("saving", ("saving.every",))
