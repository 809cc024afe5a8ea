from __future__ import annotations

import re
from typing import Any

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.data.sequences.synthetic import SyntheticInstructions, SyntheticPreferences, made

PLACES = ["first", "second", "third", "fourth", "fifth"]


def _answer(question: str) -> str:
    """The rules once more, read from the question alone."""
    if found := re.fullmatch(r"What is (\d+) \+ (\d+)\?", question):
        return str(int(found[1]) + int(found[2]))
    if found := re.fullmatch(r"Write (\w+) backwards\.", question):
        return "".join(reversed(found[1]))
    if found := re.fullmatch(r"Write (\w+) in capitals\.", question):
        return found[1].upper()
    found = re.fullmatch(r"Which word is (\w+): ([\w, ]+)\?", question)
    assert found is not None
    return found[2].split(", ")[PLACES.index(found[1])]


def test_answers_follow_from_their_questions() -> None:
    rows = [row.values for row in made(2000, ("add", "reverse", "upper", "pick"), 0).rows()]
    assert len({row["prompt"] for row in rows}) == len(rows) == 2000
    for row in rows:
        assert row["completion"] == _answer(row["prompt"])
        assert row["rejected"] != row["completion"]
    kinds = [sum(row["prompt"].startswith(start) for row in rows) for start in ("What", "Write", "Which")]
    assert min(kinds) > 400


def test_the_seed_decides() -> None:
    def prompts(seed: int) -> list[Any]:
        return [row.values["prompt"] for row in made(50, ("upper",), seed).rows()]

    assert prompts(0) == prompts(0) != prompts(1)
    assert prompts(0)[:3] == ["Write giko in capitals.", "Write umer in capitals.", "Write urugo in capitals."]


@pytest.mark.parametrize("technique", [SyntheticInstructions, SyntheticPreferences])
@pytest.mark.parametrize(
    ("fields", "where"), [({"count": 1}, "count"), ({"tasks": ()}, "tasks"), ({"tasks": ("divide",)}, "tasks")]
)
def test_impossible_settings_are_refused(technique: Any, fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        technique(**fields)
    assert caught.value.where == where and caught.value.remedy


def test_more_questions_than_there_are() -> None:
    with pytest.raises(ModelwrightError, match="no 8200 different questions"):
        list(made(8200, ("add",), 0).rows())
