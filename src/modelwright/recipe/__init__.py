"""Recipes: what the user asks for, typed and frozen; from YAML, overridden, explained, checked by editors.

``modelwright.recipe.build`` turns a recipe into objects; it is not imported here, because it needs torch.
"""

from modelwright.recipe.explain import Row, explain, to_yaml
from modelwright.recipe.foreign import Foreign, foreign_classes
from modelwright.recipe.jsonschema import editor_line, json_schema
from modelwright.recipe.load import Loaded, load, load_recipe, shipped
from modelwright.recipe.places import Place
from modelwright.recipe.schema import Launch, Recipe

__all__ = [
    "Foreign",
    "Launch",
    "Loaded",
    "Place",
    "Recipe",
    "Row",
    "editor_line",
    "explain",
    "foreign_classes",
    "json_schema",
    "load",
    "load_recipe",
    "shipped",
    "to_yaml",
]
