from __future__ import annotations

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.models.starts.naming import check_rules, choose, covered, owners, renamed


def test_a_module_covers_all_inside_and_nothing_beside() -> None:
    assert covered("encoder.2.weight", ["encoder.2"])
    assert covered("encoder.2.weight", ["encoder"])
    assert covered("encoder.2.weight", ["encoder.2.*"])
    assert not covered("encoder.20.weight", ["encoder.2"])
    assert not covered("encoder.20.weight", ["encoder.2.*"])
    assert owners("a.b.c") == ["a", "a.b"]


def test_choosing_keeps_the_order_and_refuses_a_slip() -> None:
    names = ["embedding.weight", "blocks.0.weight", "blocks.1.weight", "head.weight"]
    assert choose(names, ["head", "blocks.0"], "freeze") == ["blocks.0.weight", "head.weight"]
    with pytest.raises(ModelwrightError, match="no name fits the pattern 'blokcs'") as raised:
        choose(names, ["blokcs"], "freeze")
    assert raised.value.where == "freeze"
    assert raised.value.remedy == "did you mean 'blocks'?"


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("model.a", {"model.": ""}, "a"),
        ("a", {"model.": ""}, "a"),
        ("a.b", {"": "net."}, "net.a.b"),
        ("model.head.a", {"model.": "", "model.head.": "score."}, "score.a"),
        ("layers.3.attn.q", {"layers.*.attn.": "blocks.*.attention."}, "blocks.3.attention.q"),
        ("layers.3.attn.q", {"layers.*.": "blocks."}, "blocks.attn.q"),
        ("xlayers.3", {"layers.": "y."}, "xlayers.3"),
        ("models.a", {"model.": ""}, "models.a"),
    ],
)
def test_the_longest_beginning_counts(name: str, rules: dict[str, str], expected: str) -> None:
    assert renamed(name, rules) == expected


def test_stars_must_pair_up() -> None:
    with pytest.raises(ModelwrightError, match="more"):
        check_rules({"a.": "b.*."}, "rename")
