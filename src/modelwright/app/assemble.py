"""From a recipe to what is to be trained: the same objects on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from modelwright.app.places import data_cache
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.files import make_folder, read_json, write_json
from modelwright.data import Sampling, Splits, Tokenizer, TokenizerTechnique
from modelwright.data.manifest import NAME as MANIFEST
from modelwright.data.manifest import check
from modelwright.optim import AverageTechnique
from modelwright.recipe import Recipe, load_recipe
from modelwright.recipe.build import filled_model, open_data, reopen_data
from modelwright.recipe.own import OwnOptimizer, build_objective, build_schedule, updating_of
from modelwright.recipe.weights import begun_model
from modelwright.runs import Run
from modelwright.training.training import Training

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

_DATA = "data.json"
_TOKENIZER = "tokenizer"


def prepare(recipe: Recipe, run: Run) -> Splits:
    """Prepare the recipe's data, check it, open it; the run notes where it lies and keeps its tokenizer.

    Raises:
        ModelwrightError: preparing fails, or what was prepared is damaged.
    """
    folder, data = open_data(recipe, data_cache())
    if (folder / MANIFEST).is_file():
        check(folder)
    _keep_tokenizer(recipe, data, run)
    _check_same_tokens(recipe, data)
    _note(run, folder)
    return data


def assemble(run: Run, *, with_data: bool = True, begin: bool = True) -> Training:
    """The training that the run's recipe describes; the model's first weights follow from the seed.

    Args:
        run: the run.
        with_data: ``False`` takes a language model's tokenizer from the run and leaves its data alone, which may
            be gone: enough to generate text. A run that holds no tokenizer needs its data all the same.
        begin: ``False`` where trained weights are loaded next: what the run started from may be gone. An objective
            that compares with the start has it read all the same.

    Raises:
        ModelwrightError: the run's data is gone, or is not what it was trained on.
    """
    recipe = load_recipe(run.recipe_path)
    data = None if with_data else _only_tokenizer(recipe, run)
    data = data or _prepared(recipe, run)
    objective = build_objective(recipe)
    return Training(
        model=begun_model(recipe, filled_model(recipe, data.facts), start=begin or hasattr(objective, "build")),
        data=data,
        objective=objective,
        optimizer=OwnOptimizer(recipe.optimizer),
        schedule=build_schedule(recipe.schedule),
        momentum_schedule=build_schedule(recipe.momentum_schedule),
        weight_decay_schedule=build_schedule(recipe.weight_decay_schedule),
        groups=recipe.groups,
        updates={name: updating_of(recipe, settings) for name, settings in recipe.updates.items()},
        averaging=cast(AverageTechnique | None, recipe.averaging),
        loss_scale=recipe.loss_scale,
        batch=recipe.batch,
        sampling=cast(Sampling, recipe.sampling),
        budget=recipe.budget,
        clip=recipe.clip,
        seed=recipe.seed,
        evaluation=recipe.evaluation,
        saving=recipe.saving,
        watch=recipe.watch,
    )


def tokenizer_of(run: Run) -> Tokenizer | None:
    """The tokenizer that the run keeps; ``None`` where it keeps none.

    Raises:
        ModelwrightError: its file is damaged.
    """
    return _kept_tokenizer(load_recipe(run.recipe_path), run)


def _prepared(recipe: Recipe, run: Run) -> Splits:
    """The data as noted in the run; made anew, and the same, where that folder is gone."""
    noted = _noted(run)
    if noted is None:
        return prepare(recipe, run)
    for place in (noted, data_cache() / noted.name):  # the name is a key of the content
        if place.is_dir():
            return reopen_data(recipe, place)
    folder, data = _made_anew(recipe, noted)
    if folder.name != noted.name:
        _refuse_other(run, data, noted, folder)
    _note(run, folder)
    return data


def _made_anew(recipe: Recipe, noted: Path) -> tuple[Path, Splits]:
    try:
        return open_data(recipe, data_cache())
    except ModelwrightError as error:
        what = f"the data that this run was trained on is no longer in {noted}, and cannot be made again: {error.what}"
        raise ModelwrightError(what, where=error.where, remedy=error.remedy) from error


def _refuse_other(run: Run, data: Splits, noted: Path, folder: Path) -> None:
    """Tokens of another text or tokenizer mean other things to the same weights; other data is only told of."""
    what = (
        f"the data is not what the run '{run.name}' was trained on: that was {noted.name}, which is gone from"
        f" {noted.parent}; from what lies there now comes {folder.name}"
    )
    if data.tokenizer is None:
        emit("data-changed", what, level="warning", noted=str(noted), found=str(folder))
        return
    raise ModelwrightError(
        what,
        where=str(run.path / _DATA),
        remedy=f"restore the text and the versions it was prepared with (env.json has them), or copy the folder"
        f" {noted.name} to {data_cache()}; to learn from the text as it is now, train anew",
    )


def _noted(run: Run) -> Path | None:
    path = run.path / _DATA
    if not path.exists():
        return None
    try:
        return Path(read_json(path)["folder"])
    except (KeyError, TypeError) as error:
        raise ModelwrightError(
            "the file does not say where the data lies", where=str(path), remedy="restore it from a copy"
        ) from error


def _note(run: Run, folder: Path) -> None:
    write_json(run.path / _DATA, {"format": 1, "folder": str(folder), "name": folder.name})


def _keep_tokenizer(recipe: Recipe, data: Splits, run: Run) -> None:
    """Weights mean nothing without it, and the cache may be cleared. Data of the user's own keeps its own."""
    if data.tokenizer is not None and _technique(recipe) is not None:
        make_folder(run.path / _TOKENIZER)
        data.tokenizer.save(run.path / _TOKENIZER)


def _check_same_tokens(recipe: Recipe, data: Splits) -> None:
    """Weights that start from a run know its tokens alone; a tokenizer learnt from other text means others."""
    if recipe.start is None or recipe.start.run is None or data.tokenizer is None:
        return
    other = Run(Path(recipe.start.run))
    theirs = tokenizer_of(other) if other.recipe_path.is_file() else None
    refuse_other_tokens(f"the run to start from, {recipe.start.run},", other, theirs, data.tokenizer)


def refuse_other_tokens(whose: str, run: Run, theirs: Tokenizer | None, ours: Tokenizer | None) -> None:
    """Refuse data whose tokens mean other things than those of the run that weights come from.

    Args:
        whose: the run, as the sentence names it.
        run: it.
        theirs: its tokenizer, if it has one.
        ours: that of the data, if it has one.

    Raises:
        ModelwrightError: they make other tokens.
    """
    if theirs is None or ours is None or _alike(theirs, ours):
        return
    raise ModelwrightError(
        f"{whose} has another tokenizer than this data: the same numbers would stand for other tokens",
        where="data.tokenizer",
        remedy=f"take its own:  tokenizer: {{use: local, folder: {run.path / _TOKENIZER}}}",
    )


def _alike(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers make the same tokens of every byte and of a page of words."""
    probes = (bytes(range(256)), Path(__file__).read_bytes())
    sizes = [(each.vocabulary, each.end_of_text) for each in (one, other)]
    return sizes[0] == sizes[1] and all(list(one.encode(text)) == list(other.encode(text)) for text in probes)


def _kept_tokenizer(recipe: Recipe, run: Run) -> Tokenizer | None:
    technique, folder = _technique(recipe), run.path / _TOKENIZER
    return technique.load(folder) if technique is not None and folder.is_dir() else None


def _technique(recipe: Recipe) -> TokenizerTechnique | None:
    technique: Any = getattr(recipe.data, "tokenizer", None)
    return technique if hasattr(technique, "load") else None


def _only_tokenizer(recipe: Recipe, run: Run) -> Splits | None:
    tokenizer = _kept_tokenizer(recipe, run)
    context = getattr(recipe.data, "context", None)
    if tokenizer is None or context is None:
        return None
    facts: Mapping[str, int] = {"vocabulary": tokenizer.vocabulary}
    return Splits(_Blank(int(context), tokenizer.end_of_text), None, facts, tokenizer)


@dataclass(frozen=True)
class _Blank:
    """One window of ends of text, where the data itself is not at hand."""

    context: int
    end_of_text: int

    def __len__(self) -> int:
        return 1

    def __getitems__(self, positions: Positions) -> Batch:
        blank = torch.full((len(positions), self.context), self.end_of_text)
        return {"inputs": blank, "targets": blank.clone()}
