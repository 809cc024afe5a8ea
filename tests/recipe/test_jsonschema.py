from __future__ import annotations

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.recipe.techniques import HERE, SOLVERS, Adam, Job
from tests.recipe.test_load import GOOD, WRONG

from modelwright.base.choice import Family
from modelwright.base.events import Event, listening
from modelwright.recipe import Recipe, editor_line, json_schema, shipped
from modelwright.recipe.explain import to_yaml
from modelwright.recipe.load import read

FITTING = [
    GOOD,
    GOOD + "solver: adam\n",
    GOOD + "solver: {lr: 0.5}\n",
    GOOD + "solver: {use: adam, lr: 1e-3, betas: [9e-1, 1.5E-1]}\nclip: 1e+3\n",
    GOOD + f"solver: {HERE}:Own\n",
    GOOD + f"solver: {{use: '{HERE}:Own', anything: [1]}}\n",
    GOOD + "solver: {use: adam, betas: [0.9, 1], mode: fast}\npause: 1h30m\nworkers: 3\nclip: null\n",
    GOOD.replace("8", "20k") + "budget: {time: 10m}\ntags: [a]\n",
    "source: {use: mixture, parts: [{use: mixture, parts: []}], weights: {a: 1}}\nbatch: 1\n",
]
# What only the loader can know: values that a technique's own checks refuse, and whether classes exist.
BEYOND = ("lr: 0}", "steps: 0", "Own", "Owm", "nowhere", "lr: .nan", "fused: yes")


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    with listening(lambda event: None):
        schema = json_schema(Job)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("text", FITTING)
def test_right_recipes_fit(validator: Draft202012Validator, text: str) -> None:
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


def test_numbers_that_pyyaml_takes_for_text_fit(validator: Draft202012Validator) -> None:
    text = GOOD + "solver: {lr: 1e-3}\n"
    assert yaml.safe_load(text)["solver"] == {"lr": "1e-3"}
    assert read(text, Job).recipe.solver == Adam(lr=1e-3)
    assert validator.is_valid(yaml.safe_load(text))
    for wrong in ("1e", "e-3", "fast", "1e-3x", "0.5", "x1e-3"):
        assert not validator.is_valid(yaml.safe_load(text) | {"solver": {"lr": wrong}}), wrong


def test_resolved_recipes_fit(validator: Draft202012Validator) -> None:
    for text in FITTING:
        if "Own" not in text:
            assert list(validator.iter_errors(yaml.safe_load(to_yaml(read(text, Job).recipe)))) == []


@pytest.mark.parametrize("line", [line for line in WRONG if not any(part in line for part in BEYOND)])
def test_mistakes_do_not_fit(validator: Draft202012Validator, line: str) -> None:
    assert list(validator.iter_errors(yaml.safe_load(f"{GOOD}{line}\n")))


def test_descriptions_and_defaults_come_from_the_classes() -> None:
    with listening(lambda event: None):
        schema = json_schema(Job)
    adam = schema["$defs"]["solver.adam"]
    assert adam["description"] == "Moments of both orders."
    assert adam["properties"]["lr"]["description"] == "peak learning rate."
    assert adam["properties"]["lr"]["default"] == 1e-3
    assert adam["properties"]["betas"]["default"] == [0.9, 0.95]
    assert adam["required"] == ["use"]
    assert schema["properties"]["solver"]["default"] == "adam"
    assert schema["required"] == ["source", "batch"]


def test_a_technique_whose_optional_part_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS.listing, "heavy", "tests.recipe.heavy:Heavy")  # type: ignore[arg-type]
    events: list[Event] = []
    with listening(events.append):
        schema = json_schema(Job)
    assert [event.kind for event in events] == ["schema-incomplete"]
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(GOOD + "solver: {use: heavy, any: 1}\n"))


@pytest.fixture(scope="module")
def real() -> Draft202012Validator:
    schema = json_schema(Recipe)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_every_field_in_the_real_schema_is_described(real: Draft202012Validator) -> None:
    bare = []
    for name, definition in [("recipe", real.schema), *real.schema["$defs"].items()]:
        for field, schema in definition.get("properties", {}).items():
            if not schema.get("description"):
                bare.append(f"{name}.{field}")
    assert bare == []


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_fit(real: Draft202012Validator, name: str) -> None:
    assert list(real.iter_errors(yaml.safe_load(shipped()[name]))) == []


def test_the_line_for_editors() -> None:
    assert editor_line("recipe.json") == "# yaml-language-server: $schema=recipe.json"


def test_families_of_families_do_not_recurse_for_ever() -> None:
    assert isinstance(SOLVERS, Family)
    with listening(lambda event: None):
        assert "source.mixture" in json_schema(Job)["$defs"]
