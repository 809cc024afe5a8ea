"""A recipe to objects: data opened, numbers of the data filled into the model, the model built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.data import Splits
from modelwright.recipe.foreign import Foreign, constructed
from modelwright.recipe.load import Loaded
from modelwright.recipe.schema import Recipe

_FACTS = ("vocabulary", "features", "classes", "channels", "image_size", "samples")


def open_data(loaded: Loaded[Recipe] | Recipe, cache: Path) -> tuple[Path, Splits]:
    """Prepare the recipe's data under ``cache`` and open it.

    Data of the user's own may be a technique (``prepare`` and ``open``), a :class:`Splits`, a pair of data
    sets ``(train, held_out)``, or one data set.

    Raises:
        ModelwrightError: preparing or opening fails, or what the user's class gives is no data.
    """
    recipe, where = _placed(loaded, "data")
    technique = _data_technique(recipe)
    if not hasattr(technique, "prepare"):
        return cache, _splits(technique, where)
    with _placing(loaded, technique):
        folder = technique.prepare(cache)
        return folder, technique.open(folder)


def reopen_data(recipe: Recipe, folder: Path) -> Splits:
    """Open what :func:`open_data` prepared in ``folder``, without looking at the source again.

    Raises:
        ModelwrightError: a file is missing or damaged.
    """
    technique = _data_technique(recipe)
    return technique.open(folder) if hasattr(technique, "prepare") else _splits(technique, "data")


def filled_model(loaded: Loaded[Recipe] | Recipe, facts: Mapping[str, int]) -> Any:
    """The model's configuration, with what was left open taken from the data.

    A field that is ``None`` and bears the name of a fact is filled; so is a parameter of the user's own class
    that the recipe does not give.

    Raises:
        ModelwrightError: the recipe gives a smaller number than the data has, or nobody gives one.
    """
    recipe, where = _placed(loaded, "model")
    model: Any = recipe.model
    if isinstance(model, Foreign):
        return _filled_foreign(model, facts, where)
    if not is_dataclass(model) or isinstance(model, type):
        return model
    names = {entry.name for entry in fields(model)} & facts.keys()
    _check_sizes({name: getattr(model, name) for name in names}, facts, loaded)
    return _replaced(model, {name: facts[name] for name in names if getattr(model, name) is None}, where)


def build_model(model: Any, where: str = "") -> nn.Module:
    """The module of a model's configuration.

    Args:
        model: a technique of :data:`modelwright.models.MODELS`, or :class:`Foreign`.
        where: the place in the recipe, for messages.

    Raises:
        ModelwrightError: the constructor raises (the class is named), or gives no ``torch.nn.Module``.
    """
    name = model.use if isinstance(model, Foreign) else f"{type(model).__module__}:{type(model).__qualname__}"
    module = model.build() if isinstance(model, Foreign) else constructed(model.build, name, where)
    if not isinstance(module, nn.Module) and hasattr(module, "build"):
        module = constructed(module.build, name, where)
    if isinstance(module, nn.Module):
        return module
    raise ModelwrightError(
        f"'{name}' gave an object of type {type(module).__name__}, not a torch.nn.Module",
        where=where or getattr(model, "where", ""),
        remedy="name a class that derives from torch.nn.Module, or a function that returns a module",
    )


def _placed(loaded: Loaded[Recipe] | Recipe, path: str) -> tuple[Recipe, str]:
    if isinstance(loaded, Loaded):
        return loaded.recipe, loaded.where(path)
    return loaded, path


def _data_technique(recipe: Recipe) -> Any:
    return recipe.data.build() if isinstance(recipe.data, Foreign) else recipe.data


@contextmanager
def _placing(loaded: Loaded[Recipe] | Recipe, technique: Any) -> Iterator[None]:
    """Say where in the recipe: the field of the data that an error names, else the data as a whole."""
    own = {entry.name for entry in fields(technique)} if is_dataclass(technique) else set()
    try:
        yield
    except ModelwrightError as error:
        if error.where in own or not error.where:
            _, error.where = _placed(loaded, f"data.{error.where}".rstrip("."))
        raise


def _splits(found: Any, where: str) -> Splits:
    if isinstance(found, Splits):
        return found
    if isinstance(found, tuple) and len(found) == 2 and all(map(_is_dataset, found)):
        return Splits(train=found[0], held_out=found[1])
    if _is_dataset(found):
        return Splits(train=found)
    raise ModelwrightError(
        f"the data is an object of type {type(found).__name__}, without __len__ and __getitem__",
        where=where,
        remedy="return a map-style data set, a pair (train, held_out), or modelwright.data.Splits",
    )


def _is_dataset(found: Any) -> bool:
    return hasattr(found, "__len__") and (hasattr(found, "__getitem__") or hasattr(found, "__getitems__"))


def _filled_foreign(model: Foreign, facts: Mapping[str, int], where: str) -> Foreign:
    open_names = [name for name in _FACTS if model.takes(name) and model.arguments.get(name) is None]
    given = {name: facts[name] for name in open_names if name in facts}
    if missing := [name for name in open_names if name not in facts and model.needs(name)]:
        raise ModelwrightError(
            f"'{model.use}' needs '{missing[0]}', which neither the recipe nor the data gives",
            where=model.where or where,
            remedy=f"add  {missing[0]}: NUMBER  below 'model:'",
        )
    return replace(model, arguments={**model.arguments, **given})


def _check_sizes(given: Mapping[str, int | None], facts: Mapping[str, int], loaded: Loaded[Recipe] | Recipe) -> None:
    for name, value in given.items():
        if isinstance(value, int) and value < facts[name]:
            _, where = _placed(loaded, f"model.{name}")
            raise ModelwrightError(
                f"the model's {name} is {value}, but the data has {facts[name]}",
                where=where,
                remedy=f"leave '{name}' out to take the data's, or give at least {facts[name]}",
            )


def _replaced(model: Any, values: Mapping[str, int], where: str) -> Any:
    try:
        return replace(model, **values)
    except ModelwrightError as error:
        error.where = error.where if ":" in error.where else where
        raise
