"""The first weights of a recipe's model: drawn, begun from elsewhere, frozen."""

from __future__ import annotations

import torch
from torch import nn

from modelwright.models.initial import initialise
from modelwright.models.starts.freezing import freeze
from modelwright.models.starts.starting import load_start
from modelwright.recipe.build import build_model
from modelwright.recipe.schema import Recipe


def begun_model(recipe: Recipe, config: object, *, start: bool = True) -> nn.Module:
    """The model of a configuration with the weights that training starts from; they follow from the recipe's seed.

    Args:
        recipe: says how the weights begin and what is frozen.
        config: of the model, filled with the numbers of the data.
        start: ``False`` leaves the weights of ``recipe.start`` alone, where others are loaded next.

    Raises:
        ModelwrightError: patterns fit nothing, or the start does not fit the model.
    """
    torch.manual_seed(recipe.seed)
    model = build_model(config)
    if recipe.initial:
        initialise(model, recipe.initial)  # type: ignore[arg-type]
    if recipe.start is not None and start:
        load_start(model, recipe.start)
    if recipe.freeze:
        freeze(model, recipe.freeze)
    return model
