"""What a layout would do is told before anything runs, and is what then happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.command import TEXT, invoke, write_recipe

from modelwright.base.axes import AXES
from modelwright.cli.base import VERBS

MODEL = "{use: gpt, layers: 2, width: 16, heads: 2}"
PLAN = "{measure: false, threads: 1, precision: fp32}"
RECIPE = TEXT | {"model": MODEL, "plan": PLAN}


def told(*overrides: str) -> dict[str, Any]:
    write_recipe(RECIPE)
    outcome = invoke("recipe", "layout", "recipe.yaml", *overrides, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = outcome.json()
    return found


def complaint(*overrides: str) -> str:
    write_recipe(RECIPE)
    outcome = invoke("recipe", "layout", "recipe.yaml", *overrides)
    assert outcome.code == 2
    return "\n".join(outcome.complaint)


def test_one_worker_holds_everything() -> None:
    found = told("plan.workers=1")
    [held] = found["held"]
    assert held["parameters"] == held["gradients"] == 4 * found["parameters"]
    assert held["moments"] == 2 * held["parameters"]
    assert found["tensor"] is None and found["pipeline"] == []


def test_tensor_says_how_each_parameter_is_divided() -> None:
    found = told("plan.layout={replicate: 2, tensor: 2}")
    rows = found["tensor"]["parameters"]
    assert found["workers"] == 4 and found["shares"] == 2
    assert found["held"][0]["parameters"] == sum(row["bytes"] for row in rows)
    queries = next(row for row in rows if "query" in row["name"])
    assert queries["local_shape"] == [8, 16] and queries["count"] == 2 and "heads" in queries["how"]
    assert all(row["how"] for row in rows if not row["divided"])


@pytest.mark.parametrize(("stage", "shares"), [(1, (1, 1, 2)), (2, (1, 2, 2)), (3, (2, 2, 2))])
def test_shard_divides_what_its_stage_says(stage: int, shares: tuple[int, int, int]) -> None:
    found = told(f"plan.layout.shard={{size: 2, stage: {stage}}}")
    whole, held = 4 * found["parameters"], found["held"][0]
    for name, copies, share in zip(("parameters", "gradients", "moments"), (1, 1, 2), shares, strict=True):
        assert copies * whole / share <= held[name] <= copies * whole / share * 1.01  # rows that do not come out even


def test_pipeline_says_where_it_cuts() -> None:
    found = told("plan.layout.pipeline=2", "plan.micro_batch=2")
    assert [(stage["rank"], stage["blocks"]) for stage in found["pipeline"]] == [
        (0, ["blocks.0", "blocks.0"]),
        (1, ["blocks.1", "blocks.1"]),
    ]
    assert sum(stage["share"] for stage in found["pipeline"]) == pytest.approx(1)
    embedding = 4 * 257 * 16
    assert sum(held["parameters"] for held in found["held"]) == 4 * found["parameters"] + embedding  # tied: on both


def test_experts_are_spread() -> None:
    whole = told("model.experts=4", "plan.workers=1")["held"][0]["parameters"]
    spread = told("model.experts=4", "plan.layout.expert=2")["held"][0]["parameters"]
    assert 0.5 * whole < spread < 0.9 * whole
    both = told("model.experts=4", "plan.layout={expert: 2, tensor: 2}")
    rows = {row["name"].rpartition(".")[2]: row for row in both["tensor"]["parameters"]}
    experts = sum(rows[name]["bytes"] for name in ("gate", "up", "down"))
    assert all("units" in rows[name]["how"] for name in ("gate", "up", "down"))
    assert both["held"][0]["parameters"] == sum(r["bytes"] for r in both["tensor"]["parameters"]) - experts // 2


def test_more_workers_than_the_machine_bears_are_explained_all_the_same() -> None:
    found = told("plan.layout={context: 2, replicate: 256}", "batch=256")
    assert found["workers"] == 512 and "512 workers are too many" in found["here"]
    assert {each["axis"]: each["samples"] for each in found["axes"]} == {"replicate": "own", "context": "shared"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("plan.layout.expert=2",), "no experts"),
        (("plan.layout.pipeline=3", "plan.micro_batch=1"), "too few for 3 pipeline stages"),
        (("plan.layout.tensor=2", "plan.compile=true"), "not compiled"),
        (("plan.layout.tensr=2",), "no axis 'tensr'"),
        (("plan.layout.pipeline=2", "plan.micro_batch=8"), "at least 2 micro-batches"),
    ],
)
def test_nonsense_is_refused_with_place_and_remedy(overrides: tuple[str, ...], words: str) -> None:
    text = complaint(*overrides)
    assert words in text and "where: " in text and "to do: " in text


def test_nothing_is_left_behind_and_no_name_is_cut(home: Path) -> None:
    write_recipe(RECIPE)
    outcome = invoke("recipe", "layout", "recipe.yaml", "plan.layout={pipeline: 2, tensor: 2}", "plan.micro_batch=1")
    assert outcome.code == 0, outcome.err
    assert "pipeline 2 x tensor 2" in outcome.out and "a worker holds" in outcome.out
    assert "…" not in outcome.out
    assert not (home / "runs").exists()


def test_every_axis_has_a_line() -> None:
    explained = VERBS.resolve("recipe layout").__globals__["_WHAT"]
    assert explained.keys() == set(AXES)
