"""The recipes that come with modelwright load, satisfy the schema, and say at their head what they cost and give."""

from __future__ import annotations

import re

import jsonschema
import pytest
import yaml

from modelwright.recipe import json_schema, load_recipe, shipped

RECIPES = shipped()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_shipped_recipe_is_sound(name: str) -> None:
    text = RECIPES[name]
    assert load_recipe(name) == load_recipe(text)
    jsonschema.validate(yaml.safe_load(text), json_schema())
    assert re.match(rf"# .+\n# command:  modelwright train {name}\n# cost: .+\n# expect: .+\n", text)
