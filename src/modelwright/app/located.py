"""Errors found after a recipe was read still tell the line that caused them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from modelwright.base.errors import ModelwrightError
from modelwright.recipe import Loaded, Recipe

_FIELDS = {entry.name for entry in fields(Recipe)}


@contextmanager
def located(loaded: Loaded[Recipe]) -> Iterator[None]:
    """Where an error inside the block names a field of the recipe, put its file and line in front."""
    try:
        yield
    except ModelwrightError as error:
        if error.where.partition(".")[0] in _FIELDS:
            error.where = loaded.where(error.where)
        raise
