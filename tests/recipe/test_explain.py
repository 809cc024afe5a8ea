from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.recipe.techniques import HERE, Adam, Files, Job, Mixture, Plain, Theirs

from modelwright.recipe.explain import explain, to_yaml
from modelwright.recipe.foreign import Foreign
from modelwright.recipe.load import read
from modelwright.training.settings import Budget

TEXT = """solver: adam
source:
  use: mixture
  parts: [{use: files, pattern: a}]
  weights: {a: 2}
batch: 8
"""

positive = st.floats(min_value=1e-300, max_value=1e300)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = texts | st.sampled_from(
    [
        "no",
        "3e-4",
        "1:30",
        "null",
        "~",
        "0x1f",
        "0o17",
        "5_0",
        "true",
        "on",
        " a",
        "a ",
        "a: b",
        "#",
        "-",
        "*x",
        "\x85",
        "\t",
        "2024-01-01",
        "=",
        "<<",
        "1e5",
        ".inf",
        "é",
    ]
)
files = st.builds(Files, pattern=words, limit=st.none() | st.integers(0, 10**15))
sources = st.recursive(
    files,
    lambda inner: st.builds(
        Mixture,
        parts=st.lists(inner, max_size=3).map(tuple),
        weights=st.dictionaries(words, st.floats(-1e9, 1e9), max_size=2),
    ),
    max_leaves=4,
)
solvers = (
    st.builds(Adam, lr=positive, betas=st.tuples(positive, positive), fused=st.booleans())
    | st.builds(Plain, lr=st.floats(-1e300, 1e300), layers=st.lists(st.integers()).map(tuple))
    | st.builds(Theirs, depth=st.integers(), rate=positive)
    | st.builds(
        Foreign,
        use=st.just(f"{HERE}:own_function"),
        arguments=st.fixed_dictionaries({"lr": positive, "other": words | st.lists(st.integers())}),
    )
)
jobs = st.builds(
    Job,
    title=st.none() | words,
    solver=solvers,
    source=sources,
    batch=st.integers(0, 10**12),
    pause=st.floats(0, 1e9),
    workers=st.just("auto") | st.integers(),
    clip=st.none() | positive,
    tags=st.lists(words).map(tuple),
    budget=st.builds(Budget, epochs=positive) | st.builds(Budget, steps=st.integers(1, 10**9)),
)


@given(jobs)
def test_a_resolved_recipe_loads_back_equal(job: Job) -> None:
    assert read(to_yaml(job), Job).recipe == job


@given(jobs)
def test_other_readers_of_yaml_see_the_same_texts(job: Job) -> None:
    assert yaml.safe_load(to_yaml(job))["tags"] == list(job.tags)


def test_the_first_line_is_a_comment() -> None:
    assert to_yaml(read(TEXT, Job).recipe).startswith("# ")


def test_every_value_has_its_origin() -> None:
    rows = explain(read(TEXT, Job, source="job.yaml", overrides=["solver.lr=0.5", "tags=[x]"]))
    table = {row.path: (row.value, row.origin) for row in rows}
    assert table["title"] == (None, "default")
    assert table["solver.use"] == ("adam", "job.yaml:1")
    assert table["solver.lr"] == (0.5, "command line")
    assert table["solver.mode"] == ("exact", "default")
    assert table["source.parts.0.use"] == ("files", "job.yaml:4")
    assert table["source.parts.0.root"] == (None, "default")
    assert table["source.weights.a"] == (2.0, "job.yaml:5")
    assert table["tags"] == (["x"], "command line")
    assert table["budget.steps"] == (10, "default")
    assert len(table) == len(rows)


def test_a_technique_named_by_the_default_has_no_other_origin() -> None:
    rows = explain(read(TEXT.replace("solver: adam", "solver: {lr: 1}"), Job, source="job.yaml"))
    table = {row.path: row.origin for row in rows}
    assert (table["solver.use"], table["solver.lr"]) == ("default", "job.yaml:1")
    bare = explain(read(TEXT, Job, source="job.yaml"))
    assert {row.path: row.origin for row in bare}["solver.use"] == "job.yaml:1"
