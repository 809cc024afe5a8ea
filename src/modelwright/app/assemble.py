"""From a recipe to what is to be trained: the same objects on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from modelwright.app.places import data_cache
from modelwright.base.files import read_json, write_json
from modelwright.data import Splits
from modelwright.optim import Optimizer
from modelwright.recipe import Recipe, load_recipe
from modelwright.recipe.build import build_model, filled_model, open_data, reopen_data
from modelwright.recipe.own import build_objective, build_optimizer, build_schedule
from modelwright.runs import Run
from modelwright.training.training import Training

_DATA = "data.json"


def prepare(recipe: Recipe, run: Run) -> Splits:
    """Prepare the recipe's data, open it, and note in the run where it lies."""
    folder, data = open_data(recipe, data_cache())
    write_json(run.path / _DATA, {"format": 1, "folder": str(folder)})
    return data


def assemble(run: Run) -> Training:
    """The training that the run's recipe describes; the model's first weights follow from the seed."""
    recipe = load_recipe(run.recipe_path)
    data = _prepared(recipe, run)
    torch.manual_seed(recipe.seed)
    return Training(
        model=build_model(filled_model(recipe, data.facts)),
        data=data,
        objective=build_objective(recipe),
        optimizer=_RecipeOptimizer(recipe),
        schedule=build_schedule(recipe),
        batch=recipe.batch,
        budget=recipe.budget,
        clip=recipe.clip,
        seed=recipe.seed,
        evaluation=recipe.evaluation,
        saving=recipe.saving,
    )


def _prepared(recipe: Recipe, run: Run) -> Splits:
    """The data as noted in the run; prepared anew where the run was copied to another machine."""
    noted = run.path / _DATA
    folder = Path(read_json(noted)["folder"]) if noted.exists() else None
    if folder is not None and folder.is_dir():
        return reopen_data(recipe, folder)
    return prepare(recipe, run)


@dataclass(frozen=True)
class _RecipeOptimizer:
    """The recipe's optimizer as a technique, be it ours, the user's or torch's."""

    recipe: Recipe

    sees: ClassVar[Literal["elements", "tensors"]] = "tensors"

    def build(self, model: nn.Module) -> Optimizer:
        return build_optimizer(self.recipe, model)
