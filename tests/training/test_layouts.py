"""Whole trainings in other layouts: losses, norms, scores and saved state are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.layouts import FOUR, TWO, VARIANTS, matrix, outcome, prepared, reloaded
from tests.training.small import alone
from tests.world import run_world

from modelwright.base.world import Mesh, arranged

HERE = "tests.training.test_layouts"
TOLERANCES = {"float64": 1e-12, "float32": 1e-6}
SHORT = 2e-2
HOW = ("layout", "settings", "micro_batch", "recompute", "offload", "exchange", "fault")


def compared(mesh: Mesh, folder: str, cases: list[dict[str, Any]]) -> list[list[float]]:
    """Of each case the distance from one process, and whether its checkpoint is the same in another layout."""
    found = []
    for number, case in enumerate(cases):
        place = Path(folder) / str(number)
        divided = outcome(arranged(mesh, case["layout"]), place / "divided", **case)
        there = {"replicate": mesh.size} if "shard" in case["layout"] else {"shard": mesh.size}
        other = {**case, "layout": there, "settings": {}, "offload": "none", "fault": ""}
        exact = reloaded(arranged(mesh, there), place / "divided", place / "again", **other)
        if mesh.rank == 0:
            one = {name: value for name, value in case.items() if name not in HOW}
            found.append([divided.distance(outcome(alone(), place / "one", micro_batch=8, **one)), float(exact)])
    return found


def tolerance(case: dict[str, Any]) -> float:
    return SHORT if case.get("precision") == "bf16" else TOLERANCES[case.get("dtype", "float64")]


def judge(cases: list[dict[str, Any]], ranks: int, folder: Path) -> None:
    found = run_world(f"{HERE}:compared", ranks, folder=str(folder), cases=cases, timeout=60.0 + 10 * len(cases))[0]
    wrong = [
        f"{case}: {distance:.1e}, saved alike: {bool(exact)}"
        for case, (distance, exact) in zip(cases, found, strict=True)
        if not (distance < tolerance(case) and exact)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def chosen(layouts: list[dict[str, Any]], full: bool, covering: int) -> list[dict[str, Any]]:
    """All of the matrix, or the first layouts, each in one of the variants."""
    if full:
        return matrix(layouts)
    return [matrix([layout])[number % len(VARIANTS)] for number, layout in enumerate(layouts[:covering])]


def test_two_workers_train_like_one(tmp_path: Path, full: bool) -> None:
    judge(chosen(TWO, full, 7), 2, tmp_path)


def test_four_workers_train_like_one(tmp_path: Path, full: bool) -> None:
    judge(chosen(FOUR, full, 5), 4, tmp_path)


def spoilt(mesh: Mesh, layouts: list[dict[str, int]]) -> list[list[Any]]:
    """Of each layout: which steps are left out and whether they moved a weight, where one gradient is no number."""
    found = []
    for layout in layouts:
        made = prepared(arranged(mesh, layout), layout=layout)
        weights = list(made.state.model_tensors().values())
        complete, program = made.program.exchange.before_step, made.program

        def spoil(complete: Any = complete, program: Any = program, made: Any = made) -> None:
            complete()
            if mesh.rank == mesh.size - 1 and made.state.step == 1:
                next(p for p in reversed(program.parameters()) if p.grad is not None).grad.view(-1)[:1] = float("nan")

        program.exchange.before_step = spoil
        before, told = [tensor.clone() for tensor in weights], []
        for step in made.steps(lambda: False):
            moved = any(not torch.equal(one, two) for one, two in zip(before, weights, strict=True))
            told.append([step.masked, moved])
            before = [tensor.clone() for tensor in weights]
        found.append(told)
    return found


def test_one_rank_without_a_number_masks_the_step_on_all() -> None:
    layouts = [{axis: 2} for axis in ("shard", "tensor", "pipeline")]
    for rank in run_world(f"{HERE}:spoilt", 2, layouts=layouts):
        assert rank == [[[False, True], [True, False], [False, True]]] * len(layouts)


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    wrong = [
        *(("replicate", "dropped reduction"), ("context", "dropped reduction")),
        *(("replicate", "mean of means"), ("shard", "mean of means")),
        *(("tensor", "own norm"), ("pipeline", "own norm")),
    ]
    cases = [{"layout": {axis: 2}, "fault": fault} for axis, fault in wrong]
    for case, (distance, _) in zip(
        cases, run_world(f"{HERE}:compared", 2, folder=str(tmp_path), cases=cases)[0], strict=True
    ):
        assert distance > 1e-3, case
