from __future__ import annotations

import sys

import pytest
from tests.recipe.techniques import HERE, Own, own_function

from modelwright.recipe.foreign import FAMILIES, Foreign, foreign_classes, parameters
from modelwright.recipe.hints import REQUIRED


def test_foreign_classes_of_a_text_and_nothing_is_imported() -> None:
    text = """
name: exp:one
model: {use: evil_module.net:Net, act: "torch.nn:ReLU"}
data: {use: mixture, parts: [other_module:Data, {use: modelwright.data.npy:NpyArrays}]}
optimizer: adamw
evaluation: {metrics: [accuracy, third:Metric]}
url: https://example.org/a:b
"""
    assert foreign_classes(text) == ["evil_module.net:Net", "other_module:Data", "third:Metric", "torch.nn:ReLU"]
    assert "evil_module" not in sys.modules


def test_a_look_alike_of_our_name_is_foreign() -> None:
    assert foreign_classes("model: modelwright_evil.x:Y\n") == ["modelwright_evil.x:Y"]
    assert foreign_classes("model: modelwright.models.mlp:MLP\n") == []


@pytest.mark.parametrize(
    "path",
    [
        "modelwright.x:Y",
        "modelwright:train",
        "modelwright.launch.warm:subprocess.check_output",
        "modelwright.models.mlp:MLP.build",
        "größe:Modell",
        "_paket.модуль:Класс",
    ],
)
def test_only_listed_techniques_are_ours(path: str) -> None:
    nested = f"parts: [1, {{deep: [[{{use: '{path}'}}]]}}]\n"
    assert foreign_classes(f"model: '{path}'\n") == foreign_classes(nested) == [path]


def test_every_listed_technique_is_ours() -> None:
    listed = [path for family in FAMILIES for path in family.listing.values()]
    assert len(set(listed)) > 15
    assert [path for path in listed if foreign_classes(f"model: {path}\n")] == []


def test_parameters_keep_only_annotations_that_recipes_can_write() -> None:
    named, free = parameters(Own)
    assert {name: slot.default is REQUIRED for name, slot in named.items()} == {
        "width": True,
        "names": False,
        "anything": False,
    }
    assert not free
    assert parameters(own_function)[1]


def test_arguments_given_later_and_what_is_still_needed() -> None:
    own = Foreign(use=f"{HERE}:Own")
    assert own.takes("width")
    assert own.needs("width")
    assert not own.needs("names")
    assert own.build(width=3).width == 3
