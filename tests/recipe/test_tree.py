from __future__ import annotations

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.recipe.tree import Fields, Leaf, grow, value_of


def test_every_value_knows_line_and_column() -> None:
    root, mistakes = grow("a: 1\nb:\n  - x: yes\n", source="r.yaml")
    assert not mistakes
    assert isinstance(root, Fields)
    assert value_of(root) == {"a": 1, "b": [{"x": "yes"}]}
    leaf = root.nodes["b"].nodes[0].nodes["x"]  # type: ignore[union-attr,index,call-overload]
    assert isinstance(leaf, Leaf)
    assert (leaf.place.source, leaf.place.line, leaf.place.column) == ("r.yaml", 3, 5)


def test_quoted_words_stay_text() -> None:
    root, _ = grow("a: \"3\"\nb: 'true'\nc: |\n  7\n", source="r")
    assert value_of(root) == {"a": "3", "b": "true", "c": "7\n"}


def test_a_key_given_twice_is_a_mistake_that_names_both_lines() -> None:
    _, mistakes = grow("a:\n  lr: 1\n  lr: 2\n", source="r.yaml")
    assert [(error.what, error.where) for error in mistakes] == [("'lr' is given twice", "r.yaml:3 (a.lr)")]
    assert "r.yaml:2" in mistakes[0].remedy


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("a: 1\n\tb: 2\n", 2, "spaces"),
        ("a: 1\nb: c: d\n", 2, "quotes"),
        ("a: [1, 2\nb: 3\n", 2, "bracket"),
        ("a: 1\n b: 2\n", 2, "indented"),
        ("a: *.py\n", 1, "quotes"),
        ("a: 1\n--- \nb: 2\n", 2, ""),
        ("a: 'open\n", 2, ""),
        ("a: \x00\n", None, ""),
    ],
)
def test_text_that_is_not_yaml_names_the_line(text: str, line: int | None, remedy: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        grow(text, source="r.yaml")
    assert caught.value.where.startswith(f"r.yaml:{line}" if line else "r.yaml")
    assert remedy in caught.value.remedy
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize("text", ["a: &x [*x]\n", "a: !!python/object:os.system {}\n", "a: !own 3\n", "<<: {a: 1}\n"])
def test_what_recipes_do_not_understand_is_said(text: str) -> None:
    _, mistakes = grow(text, source="r.yaml")
    assert len(mistakes) == 1
    assert mistakes[0].where.startswith("r.yaml:1")
    assert mistakes[0].remedy


def test_deep_nesting_is_refused_not_crashed() -> None:
    with pytest.raises(ModelwrightError, match="deeply"):
        grow("[" * 1500 + "]" * 1500, source="r.yaml")


def test_aliases_share_a_value() -> None:
    root, mistakes = grow("a: &x {lr: 1}\nb: *x\n", source="r")
    assert not mistakes
    assert value_of(root) == {"a": {"lr": 1}, "b": {"lr": 1}}
