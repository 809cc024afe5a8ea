from __future__ import annotations

import pytest

from modelwright.models.starts.mismatch import common_beginning, cure, differences, infer_renames
from modelwright.models.starts.naming import renamed

LAYER = {"query.weight": (4, 4), "query.bias": (4,), "norm.weight": (4,)}
MODEL = {
    "embedding.weight": (9, 4),
    **{f"blocks.{index}.{name}": shape for index in range(3) for name, shape in LAYER.items()},
    "head.weight": (2, 4),
    "head.bias": (2,),
}


def moved(rules: dict[str, str]) -> dict[str, tuple[int, ...]]:
    return {renamed(name, rules): shape for name, shape in MODEL.items()}


@pytest.mark.parametrize(
    "rules",
    [
        {"": "model."},
        {"": "_orig_mod.module."},
        {"blocks.": "transformer.h."},
        {"blocks.": "net.layers.", "embedding.": "net.tokens."},
        {"": "student.", "head.": "classifier."},
    ],
)
def test_inferred_rules_bring_every_name_back(rules: dict[str, str]) -> None:
    saved = moved(rules)
    found = infer_renames(MODEL, saved)
    assert {renamed(name, found): shape for name, shape in saved.items()} == MODEL


def test_a_model_that_adds_a_beginning_gets_rules_that_leave_the_rest_alone() -> None:
    own = {name if name.startswith("head") else f"bert.{name}": shape for name, shape in MODEL.items()}
    found = infer_renames(own, MODEL)
    assert found == {"embedding.": "bert.embedding.", "blocks.": "bert.blocks."} or "" not in found
    assert {renamed(name, found): shape for name, shape in MODEL.items()} == own


def test_no_rule_is_made_up() -> None:
    assert infer_renames(MODEL, MODEL) == {}
    assert infer_renames(MODEL, {"a.weight": (7, 7), "b.bias": (7,)}) == {}
    assert infer_renames({"a.weight": (2,), "b.weight": (2,)}, {"x.weight": (2,), "y.bias": (3,)}) == {}


def test_differences_are_of_three_kinds() -> None:
    saved = {**MODEL, "head.weight": (5, 4), "extra": (1,)}
    del saved["head.bias"]
    found = differences(MODEL, saved)
    assert (found.missing, found.unexpected) == (["head.bias"], ["extra"])
    assert found.reshaped == {"head.weight": ((5, 4), (2, 4))}
    assert found
    assert not differences(MODEL, MODEL)


def test_a_head_of_another_size_is_dropped_by_its_name() -> None:
    found = cure(MODEL, {**MODEL, "head.weight": (5, 4), "head.bias": (5,)}, {})
    assert found is not None
    assert (found.rename, found.drop, found.allow_missing) == ({}, ["head"], False)


def test_what_is_too_much_is_dropped_by_patterns_that_spare_the_model() -> None:
    extra = {f"blocks.{index}.rope.frequencies": (2,) for index in range(3)} | {
        "loss.weight": (9,),
        "blocks.3.query.weight": (4, 4),
        "blocks.0.query.scale": (),
    }
    found = cure(MODEL, {**MODEL, **extra}, {})
    assert found is not None
    assert set(found.drop) == {"rope", "loss", "scale", "blocks.3"}


def test_another_model_has_no_cure() -> None:
    assert cure(MODEL, {f"other.{index}": (3, 3) for index in range(20)}, {}) is None


def test_common_beginning() -> None:
    assert common_beginning(["model.a", "model.b.c"]) == "model."
    assert common_beginning(["model.a", "head"]) == ""
    assert common_beginning(["model.a", "net.b"]) == ""
