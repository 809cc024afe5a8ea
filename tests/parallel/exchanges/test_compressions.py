"""Compressed exchanges: over the steps nothing may be lost but what is still remembered."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.exchanges.steps import (
    SHAPES,
    built,
    gradient,
    named,
    parameters,
    several_cases,
    state,
    step,
    summed,
)
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.world import Mesh
from modelwright.objectives.regression import Regression
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.exchanges.compressions.bf16 import Bf16
from modelwright.parallel.exchanges.compressions.powersgd import PowerSGD
from modelwright.parallel.layouts.replicate import Replicate
from modelwright.parallel.program import LocalProgram

HERE = "tests.parallel.exchanges.test_compressions"
POWERSGD = {"use": "powersgd", "rank": 2}
EVERY = [
    {"use": use, "bucket": 600, "compression": compression}
    for use in ("all-reduce", "ring", "central")
    for compression in ("bf16", POWERSGD)
]


def outcomes(workers: int, techniques: list[Any], steps: int) -> list[list[dict[str, Any]]]:
    """By technique, then by rank."""
    cases = [{"technique": technique, "steps": steps} for technique in techniques]
    ranks = run_world(f"{several_cases.__module__}:several_cases", workers, cases=cases)
    return [[rank[number] for rank in ranks] for number in range(len(cases))]


def lost(ranks: list[dict[str, Any]], steps: int, seed: int = 0) -> float:
    """The largest difference between all that came out with what is remembered, and all that went in."""
    worst = 0.0
    for place, shape in enumerate(SHAPES):
        went_in = sum(summed(number, len(ranks), place, shape, seed) for number in range(steps))
        came_out = sum(np.array(found[place]) for found in ranks[0]["found"])
        errors = sum(np.array(rank["end"].get(f"p{place}/error", 0.0)) for rank in ranks)
        worst = max(worst, float(np.abs(came_out + errors - went_in).max()))
    return worst


@pytest.mark.parametrize("workers", [2, 3])
def test_what_a_step_leaves_out_comes_with_the_next_ones(workers: int) -> None:
    for technique, ranks in zip(EVERY, outcomes(workers, EVERY, 5), strict=True):
        assert all(rank["found"] == ranks[0]["found"] for rank in ranks), technique
        assert lost(ranks, 5) < 1e-12, technique
        largest = max(np.abs(np.array(rank["end"]["p0/error"])).max() for rank in ranks)
        assert largest > 1e-3, technique  # something was left out indeed


def test_without_error_feedback_it_is_lost() -> None:
    forgetful = [{"use": name, "error_feedback": False} for name in ("bf16", "powersgd")]
    for ranks in outcomes(2, [ring(compression) for compression in forgetful], 5):
        assert lost(ranks, 5) > 1e-3
        assert not any(kind.endswith("error") for rank in ranks for kind in rank["end"])


def test_bfloat16_is_off_by_its_rounding_alone() -> None:
    for ranks in outcomes(3, [technique for technique in EVERY if technique["compression"] == "bf16"], 1):
        for place, shape in enumerate(SHAPES):
            sizes = sum(np.abs(gradient(0, 0, rank, place, shape)) for rank in range(3))
            off = np.abs(ranks[0]["found"][0][place] - summed(0, 3, place, shape))
            assert np.all(off <= 3 * 2.0**-8 * sizes)


def ring(compression: Any) -> dict[str, Any]:
    return {"use": "ring", "compression": compression}


# --- PowerSGD against its algorithm, written out


def orthonormal(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.qr(matrix)[0]


def reference(right: np.ndarray, place: int, shape: Any, ranks: int, steps: int) -> list[np.ndarray]:
    """Algorithm 1 of Vogels et al. with sums in place of means; errors local to each rank."""
    errors, found = [np.zeros((shape[0], int(np.prod(shape[1:]))))] * ranks, []
    for number in range(steps):
        given = [gradient(0, number, rank, place, shape).reshape(errors[0].shape) for rank in range(ranks)]
        matrices = [one + error for one, error in zip(given, errors, strict=True)]
        left = orthonormal(sum(matrix @ orthonormal(right) for matrix in matrices))
        rights = [matrix.T @ left for matrix in matrices]
        errors = [matrix - left @ one.T for matrix, one in zip(matrices, rights, strict=True)]
        right = sum(rights)
        found.append(left @ right.T)
    return found


def test_powersgd_is_its_algorithm() -> None:
    for rank, *_ in outcomes(3, [technique for technique in EVERY if technique["compression"] == POWERSGD], 4):
        for place in (0, 2, 3):
            wanted = reference(np.array(rank["begin"][f"p{place}/factor"]), place, SHAPES[place], 3, 4)
            for found, one in zip(rank["found"], wanted, strict=True):
                np.testing.assert_allclose(found[place], one.reshape(SHAPES[place]), rtol=0, atol=1e-10)
        for place in (1, 4, 5):  # vectors, and a matrix that factors would not make shorter
            for number, found in enumerate(rank["found"]):
                np.testing.assert_allclose(found[place], summed(number, 3, place, SHAPES[place]), rtol=0, atol=1e-12)


def test_a_rank_as_large_as_the_matrix_is_exact() -> None:
    (rank, _), *_ = outcomes(2, [ring({"use": "powersgd", "rank": 6})], 2)
    for number, found in enumerate(rank["found"]):
        for place, shape in enumerate(SHAPES):
            np.testing.assert_allclose(found[place], summed(number, 2, place, shape), rtol=0, atol=1e-12)


def low_rank(mesh: Mesh) -> list[float]:
    """How far off a sum of rank 2 is, with one column and with two."""
    random = np.random.default_rng(3)
    left, rights = random.normal(size=(30, 2)), random.normal(size=(2, 2, 40))
    off = []
    for columns in (1, 2):
        held = parameters([[30, 40]])
        exchange = built(ring({"use": "powersgd", "rank": columns}), mesh.world, held)
        found = np.array(step(exchange, held, [left @ rights[mesh.rank]])[0])
        off.append(float(np.abs(found - left @ rights.sum(axis=0)).max()))
    return off


def test_a_sum_of_low_rank_is_found_at_once() -> None:
    for one, two in run_world(f"{HERE}:low_rank", 2):
        assert one > 1e-2
        assert two < 1e-10


# --- steps that are left out, parameters without a gradient


def masked(mesh: Mesh, techniques: list[Any]) -> list[dict[str, Any]]:
    return [one_masked(mesh, technique, technique["use"] == "ring") for technique in techniques]


def one_masked(mesh: Mesh, technique: Any, as_tensor: bool) -> dict[str, Any]:
    """Three steps, the second with an infinite gradient on the last rank."""
    held = parameters()
    exchange = built(technique, mesh.world, held)

    def given(number: int) -> list[np.ndarray]:
        return [gradient(0, number, mesh.rank, place, shape) for place, shape in enumerate(SHAPES)]

    step(exchange, held, given(0))
    exchange.after_step(False)
    before = state(exchange, held)
    bad = given(1)
    bad[0][2, 3] = np.inf if mesh.rank == mesh.size - 1 else 0.0
    found = step(exchange, held, bad)
    exchange.after_step(torch.tensor(True) if as_tensor else True)
    after = state(exchange, held)
    last = step(exchange, held, given(2))
    exchange.after_step(torch.tensor(False) if as_tensor else False)
    return {
        "seen": not np.isfinite(np.array(found[0])).all(),
        "same": json.dumps(before) == json.dumps(after),
        "last": last,
        "end": state(exchange, held),
    }


def test_a_masked_step_leaves_nothing_behind() -> None:
    for ranks in zip(*run_world(f"{HERE}:masked", 2, techniques=EVERY), strict=True):
        assert all(rank["seen"] and rank["same"] for rank in ranks)
        assert ranks[0]["last"] == ranks[1]["last"]
        assert np.isfinite(np.array(ranks[0]["last"][0])).all()
        assert all(np.isfinite(value).all() for rank in ranks for value in map(np.array, rank["end"].values()))


def partly(mesh: Mesh, compression: Any) -> dict[str, Any]:
    """Two steps; in the second nobody uses the first parameter, and rank 0 alone the fourth."""
    held = parameters()
    exchange = built(ring(compression), mesh.world, held)
    step(exchange, held, [gradient(0, 0, mesh.rank, place, shape) for place, shape in enumerate(SHAPES)])
    exchange.after_step(False)
    before = state(exchange, held)
    given: list[Any] = [gradient(0, 1, mesh.rank, place, shape) for place, shape in enumerate(SHAPES)]
    given[0] = None
    given[3] = given[3] if mesh.rank == 0 else None
    found = step(exchange, held, given)
    exchange.after_step(False)
    after = state(exchange, held)
    kept = [name for name in before if name.startswith("p0/") and before[name] == after[name]]
    return {"found": found, "kept": kept, "before": before, "end": after}


@pytest.mark.parametrize("compression", ["bf16", POWERSGD], ids=str)
def test_what_nobody_used_has_no_gradient_and_keeps_what_it_lacks(compression: Any) -> None:
    ranks = run_world(f"{HERE}:partly", 2, compression=compression)
    assert ranks[0]["found"] == ranks[1]["found"]
    assert ranks[0]["found"][0] is None
    assert "p0/error" in ranks[0]["kept"]
    assert ranks[0]["kept"] == [name for name in ranks[0]["before"] if name.startswith("p0/")]
    went_in = gradient(0, 1, 0, 3, SHAPES[3]) + sum(np.array(rank["before"]["p3/error"]) for rank in ranks)
    came_out = np.array(ranks[0]["found"][3]) + sum(np.array(rank["end"]["p3/error"]) for rank in ranks)
    np.testing.assert_allclose(came_out, went_in, rtol=0, atol=1e-12)


# --- what is saved


def reloaded(mesh: Mesh, compression: Any, shared: bool) -> dict[str, Any]:
    """Two steps more after one, by the exchange itself and by a new one that was given its state."""
    held, again = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    first = built(ring(compression), mesh.world, held)
    given = [
        [gradient(0, number, mesh.rank, place, shape) for place, shape in enumerate(SHAPES)] for number in range(3)
    ]
    step(first, held, given[0])
    first.after_step(False)
    states = mesh.world.gather(first.state(named(held)))
    second = built(ring(compression), mesh.world, again)
    second.load([*states, states[0]] if shared else states, named(again), mesh.rank)
    begun = state(second, again)
    pairs = []
    for one in given[1:]:
        pairs.append([step(first, held, one), step(second, again, one)])
        first.after_step(False)
        second.after_step(False)
    return {"pairs": pairs, "states": [as_lists(one) for one in states], "begun": begun}


def as_lists(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("compression", ["bf16", POWERSGD], ids=str)
def test_a_state_goes_on_to_the_bit(compression: Any) -> None:
    for rank in run_world(f"{HERE}:reloaded", 2, compression=compression, shared=False):
        assert all(one == other for one, other in rank["pairs"])


def test_errors_of_more_ranks_are_shared_out() -> None:
    ranks = run_world(f"{HERE}:reloaded", 2, compression=POWERSGD, shared=True)
    states = [*ranks[0]["states"], ranks[0]["states"][0]]
    for rank in ranks:
        wanted = sum(np.array(one["p0/error"]) for one in states) / 2
        np.testing.assert_allclose(rank["begun"]["p0/error"], wanted, rtol=1e-6)
        assert rank["begun"]["p0/factor"] == states[0]["p0/factor"]
        assert any(one != other for one, other in rank["pairs"])


# --- the layout


def replicate(mesh: Mesh, precision: str) -> dict[str, Any]:
    events: list[Event] = []
    program = LocalProgram(torch.nn.Linear(3, 2), Regression(), device=torch.device("cpu"), precision=precision)
    try:
        with listening(events.append):
            Replicate(exchange=AllReduce(compression=Bf16())).apply(program, mesh)
    except ModelwrightError as error:
        return {"error": str(error)}
    return {"events": [(event.kind, event.details) for event in events]}


def test_it_is_said_once_that_compression_is_not_exact() -> None:
    first, second = run_world(f"{HERE}:replicate", 2, precision="fp32")
    assert first["events"] == [["exchange-inexact", {"compression": "bf16"}]]
    assert second["events"] == []


def test_a_loss_scale_would_falsify_what_is_remembered() -> None:
    for said in run_world(f"{HERE}:replicate", 2, precision="fp16"):
        assert "loss scale" in said["error"]


def test_a_rank_is_at_least_one() -> None:
    with pytest.raises(ModelwrightError, match="at least 1"):
        PowerSGD(rank=0)
