"""Plan, train, tune, compress and ship large models from one recipe, with numbers that hold.

Public names are imported when they are first used (PEP 562), so that ``import modelwright`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelwright.app.api import Result, train
    from modelwright.app.generate import generate
    from modelwright.app.places import data_cache
    from modelwright.app.predict import predict
    from modelwright.base.errors import MissingExtra, Mistakes, ModelwrightError, RunFailed
    from modelwright.base.plan import Plan
    from modelwright.base.world import world
    from modelwright.launch import spawn
    from modelwright.models.source import load_weights
    from modelwright.recipe import Recipe, load_recipe
    from modelwright.runs import Run
    from modelwright.training.settings import Budget, Evaluation, Saving

__version__ = "0.1.0"

_HOMES = {
    "Budget": "modelwright.training.settings",
    "Evaluation": "modelwright.training.settings",
    "MissingExtra": "modelwright.base.errors",
    "Mistakes": "modelwright.base.errors",
    "ModelwrightError": "modelwright.base.errors",
    "Plan": "modelwright.base.plan",
    "Recipe": "modelwright.recipe",
    "Result": "modelwright.app.api",
    "Run": "modelwright.runs",
    "RunFailed": "modelwright.base.errors",
    "Saving": "modelwright.training.settings",
    "data_cache": "modelwright.app.places",
    "generate": "modelwright.app.generate",
    "load_recipe": "modelwright.recipe",
    "load_weights": "modelwright.models.source",
    "predict": "modelwright.app.predict",
    "spawn": "modelwright.launch",
    "train": "modelwright.app.api",
    "world": "modelwright.base.world",
}

__all__ = [
    "Budget",
    "Evaluation",
    "MissingExtra",
    "Mistakes",
    "ModelwrightError",
    "Plan",
    "Recipe",
    "Result",
    "Run",
    "RunFailed",
    "Saving",
    "data_cache",
    "generate",
    "load_recipe",
    "load_weights",
    "predict",
    "spawn",
    "train",
    "world",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelwright' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
