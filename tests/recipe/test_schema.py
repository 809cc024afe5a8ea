from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from modelwright.base.errors import Mistakes, ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.optim.adamw import AdamW
from modelwright.optim.schedules.cosine import Cosine
from modelwright.recipe import Recipe, load, load_recipe, shipped, to_yaml
from modelwright.recipe.hints import slots

TEXT = """name: tiny
model: {use: gpt, layers: 2}
data: python-stdlib
objective: next-token
optimizer: {use: adamw, lr: 3e-3}
batch: 64
budget: {tokens: 5M}
"""


def test_the_real_families_are_understood() -> None:
    recipe = load_recipe(TEXT)
    assert recipe.model == GPT(layers=2)
    assert recipe.optimizer == AdamW(lr=3e-3)
    assert recipe.schedule == Cosine()
    assert (recipe.batch, recipe.clip, recipe.budget.tokens) == (64, 1.0, 5_000_000)
    assert load_recipe(to_yaml(recipe)) == recipe


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_load_and_come_back_equal(name: str) -> None:
    recipe = load_recipe(name)
    assert load_recipe(to_yaml(recipe)) == recipe
    assert shipped()[name].startswith("#")


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("name=a/b", "names a folder: use letters", "the run's name"),
        ("seed=-1", "should be greater than or equal to 0", "everything random"),
        ("batch=0", "at least 1 sample", "samples of one step"),
        ("clip=0", "should be greater than 0", "null for no clipping"),
        ("evaluation.metrics=[acuracy]", "there is no metric named 'acuracy'", "did you mean 'accuracy'?"),
        ("evaluation.every=0", "more than zero", "steps"),
        ("saving.keep=0", "more than zero", "resume"),
        ("plan.precision=pf16", "one of auto, fp32, tf32, bf16", "did you mean 'fp16'?"),
        ("plan.workers=0", "at least 1", "auto"),
        ("launch.port=99999", "between 1 and 65535", "leave it out"),
        ("launch={max: 4}", "needs 'min' too", "launch: {min: 1, max: 4}"),
        ("launch={min: 3, max: 2}", "'max' (2) is below 'min'", "launch: {min: 1, max: 4}"),
        ("optimizer.lr=-1", "lr", "learning rate"),
        ("schedule.warmup=-1", "warmup", "steps of the warm-up"),
        ("model.activation=relu", "'activation' must be", ""),
    ],
)
def test_values_that_cannot_be(override: str, what: str, remedy: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        load(TEXT, [override])
    assert not isinstance(caught.value, Mistakes)
    assert what in caught.value.what
    assert caught.value.where == f"command line ({override})"
    assert remedy in caught.value.remedy


def test_mistakes_in_all_parts_come_together() -> None:
    overrides = [
        "name=a/b",
        "seed=-1",
        "batch=0",
        "clip=0",
        "evaluation.metrics=[x]",
        "optimizer.lr=a",
        "plan.workers=0",
    ]
    with pytest.raises(Mistakes) as caught:
        load(TEXT, overrides)
    assert {error.where for error in caught.value.errors} == {f"command line ({text})" for text in overrides}


@pytest.mark.parametrize("change", [{"name": "a/b"}, {"seed": -1}, {"batch": 0}, {"clip": 0.0}])
def test_recipes_made_in_python_are_checked_too(change: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError) as caught:
        replace(load_recipe(TEXT), **change)  # type: ignore[arg-type]
    assert caught.value.where in change


def test_every_field_is_documented() -> None:
    for slot in slots(Recipe).values():
        assert slot.doc, slot.path


def test_the_door_is_light() -> None:
    code = "import sys, modelwright.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
