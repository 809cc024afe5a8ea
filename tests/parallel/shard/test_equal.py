"""Sharded training against one process, in float64: losses, norms and weights are those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.parallel.shard.training import alone
from tests.world import run_world

SHARDED = "tests.parallel.shard.training:sharded_cases"

STAGES: list[dict[str, Any]] = [
    *({"stage": stage, "micro_batch": 1, "optimizer": "sgd"} for stage in (1, 2, 3)),
    {"stage": 3, "micro_batch": 6, "optimizer": "adamw"},
]
KINDS: list[dict[str, Any]] = [
    {"stage": 3, "model": "untied", "recompute": "full", "micro_batch": 2},
    {"stage": 3, "recompute": "selective", "micro_batch": 2, "logits": "chunked", "clip": 0.1, "prefetch": 1},
    {"stage": 2, "logits": "full", "prefetch": 2, "clip": 0.1},
    {"stage": 1, "model": "odd", "micro_batch": 1, "optimizer": "sgd"},
    {"stage": 3, "model": "odd", "micro_batch": 1, "optimizer": "sgd"},
]
UNEQUAL: list[dict[str, Any]] = [
    {"stage": 1, "micro_batch": 1, "shares": [5, 1]},
    {"stage": 3, "micro_batch": 2, "shares": [0, 6]},
]
HYBRID: list[dict[str, Any]] = [
    {"stage": 1, "micro_batch": 1, "clip": 0.1},
    {"stage": 3, "model": "odd", "micro_batch": 1, "optimizer": "sgd"},
]
DIVIDED: list[dict[str, Any]] = [
    {"stage": 1, "micro_batch": 3, "clip": 0.1},
    {"stage": 3, "model": "untied", "micro_batch": 1, "recompute": "full", "optimizer": "sgd"},
]


@pytest.fixture(scope="module")
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def off(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference."""
    numbers = [np.abs(np.subtract(found[key], wanted[key])) / np.abs(wanted[key]) for key in ("losses", "norms")]
    names = wanted["weights"] if found["weights"] else ()  # they are gathered on rank 0
    weights = [np.abs(np.subtract(found["weights"][name], wanted["weights"][name])) for name in names]
    return max(float(np.max(values)) for values in [*numbers, *weights])


PATIENCE = 600  # seconds; only a hang lasts so long


def judge(layout: dict[str, int], cases: list[dict[str, Any]]) -> None:
    workers = int(np.prod(list(layout.values())))
    results = run_world(SHARDED, workers, layout=layout, cases=cases, timeout=PATIENCE)
    for number, case in enumerate(cases):
        apart = [off(found[number], alone(case)) for found in results]
        assert max(apart) < 1e-12, (case, apart)


def test_two_ranks_are_one_process() -> None:
    llama = {"stage": 3, "model": "llama", "micro_batch": 2}
    judge({"shard": 2}, [*STAGES, *KINDS, *UNEQUAL, llama])


@pytest.mark.parametrize(
    ("layout", "cases"),
    [
        ({"replicate": 2, "shard": 2}, [*HYBRID, *({**case, "ring": True} for case in HYBRID)]),
        ({"shard": 2, "tensor": 2}, DIVIDED),
        ({"shard": 2, "context": 2}, DIVIDED),
    ],
)
def test_four_ranks_are_one_process(layout: dict[str, int], cases: list[dict[str, Any]], full: bool) -> None:
    judge(layout, cases if full else cases[-2:])


def test_four_shards_are_one_process(full: bool) -> None:
    judge({"shard": 4}, HYBRID if full else HYBRID[:1])


def test_a_wrong_reduction_is_noticed() -> None:
    cases = [{"stage": 2, "micro_batch": 3, "spoiled": how} for how in ("dropped", "mean", "replicas")]
    results = run_world(SHARDED, 4, layout={"replicate": 2, "shard": 2}, cases=cases, timeout=PATIENCE)
    for number, case in enumerate(cases):
        apart = [off(found[number], alone(case)) for found in results]
        assert min(apart) > 1e-3, (case, apart)


def test_short_numbers_differ_by_their_rounding() -> None:
    """The order of sums is another one; float32 masters and gradients are summed as in one process."""
    cases = [
        {"stage": stage, "precision": precision, "dtype": "float32", "micro_batch": micro_batch, "optimizer": "sgd"}
        for precision in ("bf16", "bf16-weights")
        for stage, micro_batch in ((1, 1), (3, 3))
    ]
    results = run_world(SHARDED, 2, layout={"shard": 2}, cases=cases, timeout=PATIENCE)
    for number, case in enumerate(cases):
        assert off(results[0][number], alone(case)) < 1e-2, case
        assert results[0][number]["losses"] == results[1][number]["losses"]
