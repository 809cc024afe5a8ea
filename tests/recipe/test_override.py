from __future__ import annotations

import pytest
from tests.recipe.techniques import Adam, Files, Job, Mixture, Plain

from modelwright.base.errors import Mistakes, ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.recipe.load import read

TEXT = """source:
  use: mixture
  parts: [{use: files, pattern: a}, {use: files, pattern: b}]
batch: 8
solver:
  use: adam
  lr: 0.1
  fused: true
budget: {steps: 100}
"""


def job(*overrides: str, text: str = TEXT) -> Job:
    return read(text, Job, source="job.yaml", overrides=overrides).recipe


def told(*overrides: str, text: str = TEXT) -> tuple[Job, list[Event]]:
    events: list[Event] = []
    with listening(events.append):
        return job(*overrides, text=text), events


def error_of(*overrides: str) -> ModelwrightError:
    with pytest.raises(ModelwrightError) as caught:
        job(*overrides)
    assert len(str(caught.value).splitlines()) <= 4
    return caught.value


def test_values_are_yaml() -> None:
    changed = job("solver.lr=3e-4", "batch=20k", "tags=[a, b]", "clip=null", "workers=2", "title=")
    assert changed.solver == Adam(lr=3e-4, fused=True)
    assert (changed.batch, changed.tags, changed.clip, changed.workers) == (20_000, ("a", "b"), None, 2)
    assert changed.title is None


def test_text_with_marks_of_yaml_needs_no_quotes() -> None:
    assert job("source.parts.1.pattern=*.py").source == Mixture(parts=(Files(pattern="a"), Files(pattern="*.py")))


def test_naming_another_technique_drops_the_old_fields_and_says_so() -> None:
    changed, events = told("solver.use=plain", "solver.lr=2")
    assert changed.solver == Plain(lr=2.0)
    (event,) = events
    assert event.details["dropped"] == ["solver.lr", "solver.fused"]
    assert "solver.fused (job.yaml:8)" in event.message


@pytest.mark.parametrize("choice", ["solver.use=plain", "solver=plain"])
def test_the_order_of_overrides_does_not_matter(choice: str) -> None:
    assert job("solver.lr=2", choice).solver == job(choice, "solver.lr=2").solver == Plain(lr=2.0)


@pytest.mark.parametrize("choice", ["solver.use=adam", "solver=adam"])
def test_naming_the_same_technique_keeps_its_fields(choice: str) -> None:
    changed, events = told(choice)
    assert changed.solver == Adam(lr=0.1, fused=True)
    assert not events


def test_fields_of_a_bare_name_and_of_a_default() -> None:
    plain = "source: {use: files, pattern: x}\nbatch: 1\n"
    assert job("solver.lr=2", text=plain + "solver: adam\n").solver == Adam(lr=2.0)
    assert job("solver.lr=2", text=plain).solver == Adam(lr=2.0)


def test_a_budget_of_another_kind_replaces_the_old_one_and_says_so() -> None:
    changed, events = told("budget.time=90s")
    assert (changed.budget.kind, changed.budget.amount) == ("time", 90.0)
    assert [event.details["dropped"] for event in events] == [["budget.steps"]]


def test_two_budgets_on_the_command_line_are_a_mistake() -> None:
    error = error_of("budget.time=90s", "budget.tokens=5M")
    assert "this one has" in error.what


def test_the_last_of_two_equal_paths_counts() -> None:
    assert job("batch=1", "batch=2").batch == 2


def test_a_whole_mapping() -> None:
    assert job("solver={use: plain, lr: 1}").solver == Plain(lr=1.0)


@pytest.mark.parametrize(
    ("override", "what", "where", "remedy"),
    [
        ("solver.lr=abc", "'lr' must be a number", "command line (solver.lr=abc)", "peak"),
        ("solver.lrr=1", "has no field 'lrr'", "command line (solver.lrr=1)", "did you mean 'lr'?"),
        ("sovler.lr=1", "has no field 'sovler'", "command line (sovler.lr=1)", "did you mean 'solver'?"),
        ("solver.use=adma", "no solver named 'adma'", "command line (solver.use=adma)", "'adam'"),
        ("solver.lr.x=1", "'lr' must be a number", "command line (solver.lr.x=1)", "peak"),
        ("solver.lr", "not an override", "command line (solver.lr)", "path=value"),
        ("=3", "not an override", "command line (=3)", "path=value"),
        ("a..b=3", "not an override", "command line (a..b=3)", "path=value"),
        ("tags=[a", "not YAML", "command line (tags=[a)", "bracket"),
        ("source.parts.7.pattern=x", "has no part '7'", "command line (source.parts.7.pattern=x)", "parts.0"),
        ("budget.steps=0", "trains nothing", "command line (budget.steps=0)", "more than zero"),
    ],
)
def test_a_mistake_in_an_override_names_it(override: str, what: str, where: str, remedy: str) -> None:
    error = error_of(override)
    assert what in error.what
    assert error.where == where
    assert remedy in error.remedy


def test_mistakes_of_the_file_and_of_overrides_come_together() -> None:
    with pytest.raises(Mistakes) as caught:
        job("batch=x", text=TEXT.replace("0.1", "abc"))
    assert [error.where for error in caught.value.errors] == ["command line (batch=x)", "job.yaml:7 (solver.lr)"]
