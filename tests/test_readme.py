"""What the README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import modelwright as mw
from modelwright.cli import app
from modelwright.recipe import load_recipe

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_demo_without_a_recipe() -> None:
    code = blocks("python")[0]
    assert code.count("\n") <= 13
    result = executed(code.replace('budget="90s"', 'budget="2 steps"'))["result"]
    assert isinstance(result, mw.Result)
    assert result.summary["steps"] == 2
    assert 3 < result.scores["loss"] < 9
    assert result.run.report_path.exists()


def test_a_model_and_a_loss_of_ones_own() -> None:
    names = executed(blocks("python")[1])
    result, model, (pixels, digits) = names["result"], names["model"], names["held_out"]
    assert result.scores["loss"] < 0.5
    assert (model(pixels).argmax(1) == digits).float().mean() > 0.85


def test_the_recipe_loads() -> None:
    recipe = load_recipe(blocks("yaml")[0])
    assert recipe.batch == 64


def test_every_verb_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `([a-z]+)", TEXT, re.M))
    assert listed == {command.name or command.callback.__name__ for command in app.registered_commands} | {
        group.name for group in app.registered_groups
    }
