"""The recipes that come with modelwright: sound, described at their head, and each of them learns something.

Each runs through the real command at a size that takes seconds, and must do better than the best constant answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from tests.command import invoke, make_home

from modelwright.app.assemble import assemble
from modelwright.data.batches import read
from modelwright.recipe import json_schema, load_recipe, shipped
from modelwright.runs import Run

RECIPES = shipped()

PACKAGES = {
    "use: sklearn": "sklearn",
    "use: transformers": "transformers",
    "use: bpe": "tokenizers",
    "use: synthetic-": "jinja2",
}
"""What a recipe's text holds that needs an optional package."""

_GPT = ("model.width=48", "batch=16", "budget.steps=40")
_BYTES = ("data.tokenizer=byte", "data.context=64", "data.held_out=0.003", "plan.measure=false", "plan.precision=fp32")
SMALL = {
    "diabetes": ("budget.steps=60",),
    "digits-convnet": ("model.widths=[8, 16]", "model.depths=[1, 1]", "budget.steps=60"),
    "digits-mlp": ("budget.steps=40",),
    "digits-vit": ("model.layers=1", "budget.steps=40"),
    "finetune-stdlib": (*_GPT, *_BYTES, "budget.steps=20"),
    "instructions": (*_GPT, "model.layers=1", "data.count=500", "budget.steps=80"),
    "llama-tiny": (*_BYTES, "model.config.hidden_size=48", "budget.steps=40"),
    "names-to-words": ("batch=32", "budget.steps=80"),
    "preferences": (*_GPT, "model.layers=1", "data.count=500", "budget.steps=20"),
    "python-stdlib": (*_GPT, *_BYTES, "data.held_out_stride=64"),
    "stdlib-classes": ("data.tokenizer.vocabulary=512", "data.pieces=100", "budget.steps=90"),
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_home(tmp_path_factory.mktemp("shipped"), patch)
        yield


def need(name: str) -> None:
    for words, package in PACKAGES.items():
        if words in RECIPES[name]:
            pytest.importorskip(package)


def trained(name: str) -> Run:
    """A small run of a shipped recipe, after that of the recipe it starts from."""
    need(name)
    if not Path("runs", name).exists():
        start = load_recipe(name).start
        if start is not None:
            assert start.source == Path("runs") / trained(start.source.name).name
        outcome = invoke("train", name, *SMALL[name], "plan.workers=1", "plan.threads=1", "--name", name)
        assert outcome.code == 0, outcome.err
    return Run(Path("runs") / name)


def best_constant(run: Run) -> float:
    """The loss of the best answer that is the same for every sample, of those held out."""
    held_out = assemble(run, begin=False).data.held_out
    assert held_out is not None
    batch = read(held_out, np.arange(len(held_out)))
    if "chosen" in batch:
        return math.log(2)
    targets = batch["targets"]
    if targets.is_floating_point():
        return float(targets.var(correction=0))
    shares = targets[targets >= 0].unique(return_counts=True)[1].double()
    shares /= shares.sum()
    return float(torch.special.entr(shares).sum())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_shipped_recipe_is_sound(name: str) -> None:
    need(name)
    text = RECIPES[name]
    assert load_recipe(name) == load_recipe(text)
    jsonschema.validate(yaml.safe_load(text), json_schema())
    assert re.match(rf"# .+\n# command:  modelwright train {name}( --name {name})?\n# cost: .+\n# expect: .+\n", text)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_shipped_recipe_learns(name: str) -> None:
    run = trained(name)
    evaluated = invoke("evaluate", name, "--json")
    assert evaluated.code == 0, evaluated.err
    scores = evaluated.json()
    assert scores["loss"] == pytest.approx(run.record.summary["held_out"]["loss"], rel=1e-4)
    assert scores["loss"] < best_constant(run)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_shipped_recipe_is_of_use(name: str) -> None:
    """A language model writes; any other says something of each sample that is held out."""
    run = trained(name)
    data = assemble(run, begin=False).data
    if hasattr(load_recipe(name).data, "context"):
        outcome = invoke("generate", name, "def read(", "--length", "8", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json()["text"] or name == "preferences"  # whose few steps may end at once, an answer too
        return
    outcome = invoke("predict", name, "--out", f"{name}.jsonl")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]
    assert data.held_out is not None
    assert len(rows) == len(data.held_out)  # type: ignore[arg-type]


def test_what_was_begun_from_gets_better() -> None:
    first, second = (trained(name).record.summary["held_out"]["loss"] for name in ("python-stdlib", "finetune-stdlib"))
    assert second < first
