"""Pipelines of any model against one process, in float64: losses, gradients, norms and weights over three steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel.pipeline.steps import CPU, apart, build, compared, micro_batches, reference, train
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.parallel.pipeline.schedules import possible

STEPS = "tests.parallel.pipeline.steps"
HERE = "tests.parallel.pipeline.test_programs"
EXACT = 1e-12

TWO = [
    {"model": "gpt-tied", "schedule": "1f1b", "micro_batches": 3, "recompute": "full"},
    {"model": "gpt-tied", "schedule": "interleaved-zero-bubble", "micro_batches": 4},
    {"model": "gpt-tied", "schedule": "dualpipe-v", "micro_batches": 4, "optim": "sgd"},
    {"model": "gpt", "schedule": "gpipe", "micro_batches": 1},
    {"model": "residual", "schedule": "zbv-zero-bubble", "micro_batches": 4, "optim": "sgd"},
    {"model": "residual", "schedule": "looped-bfs", "micro_batches": 2, "stages_per_rank": 4},
    {"model": "convnet", "schedule": "1f1b", "micro_batches": 2},
    {"model": "vit", "schedule": "interleaved-1f1b", "micro_batches": 2},
    {"model": "llama", "schedule": "zbv-zero-bubble", "micro_batches": 3},
    {"model": "t5", "schedule": "interleaved-zero-bubble", "micro_batches": 2},
]
FOUR = [
    {"model": "residual", "schedule": "dualpipe-v", "micro_batches": 8},
    {"model": "gpt-tied", "schedule": "1f1b", "micro_batches": 4},
]
BOTH = [
    {"model": "gpt-tied", "schedule": "1f1b", "micro_batches": 2},
    {"model": "residual", "schedule": "interleaved-zero-bubble", "micro_batches": 2},
]
# Of kinds that are above, or of a library that takes long to import on each rank.
MORE_OF_TWO = [
    {"model": "gpt2", "schedule": "interleaved-zero-bubble", "micro_batches": 2, "stages_per_rank": 1},
    {"model": "bert", "schedule": "gpipe", "micro_batches": 2},
    {"model": "whisper", "schedule": "looped-bfs", "micro_batches": 2},
]
MORE_OF_FOUR = [{"model": "t5", "schedule": "1f1b", "micro_batches": 5, "optim": "sgd"}]
PATIENCE = 600  # seconds; only a hang lasts so long


@pytest.fixture(scope="module")
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def here(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose schedule the torch that is installed computes rightly; the others are refused."""
    return [case for case in cases if possible([case["schedule"]])]


def judge(cases: list[dict[str, Any]], results: list[list[dict[str, Any]]]) -> None:
    for number, case in enumerate(cases):
        ranks = [result[number] for result in results]
        for rank, found in enumerate(ranks):
            apart = {what: found[what] for what in ("losses", "norms", "gradients", "weights")}
            assert max(apart.values()) < EXACT, (case, rank, apart)
            assert found["moved"] > 1e-3, case
            assert set(found["held"]) < set(found["all"]), case  # each has a part
        assert set().union(*(found["held"] for found in ranks)) == set(ranks[0]["all"]), case
        assert set().union(*(found["learnt"] for found in ranks)) == set(ranks[0]["all_learnt"]), case


def test_two_ranks_are_one_process(full: bool) -> None:
    cases = here(TWO + MORE_OF_TWO * full)
    judge(cases, run_world(f"{STEPS}:compare", 2, layout={"pipeline": 2}, cases=cases, timeout=PATIENCE))


def test_four_ranks_are_one_process(full: bool) -> None:
    cases = here(FOUR + MORE_OF_FOUR * full)
    judge(cases, run_world(f"{STEPS}:compare", 4, layout={"pipeline": 4}, cases=cases, timeout=PATIENCE))


def test_replicas_of_pipelines_are_one_process() -> None:
    layout = {"pipeline": 2, "replicate": 2}
    cases = here(BOTH)
    judge(cases, run_world(f"{STEPS}:compare", 4, layout=layout, cases=cases, timeout=PATIENCE))


# --- what else a program does


CASE = {"model": "gpt-tied", "schedule": "1f1b", "micro_batches": 2}
V = "zbv-zero-bubble"


def facts(mesh: Mesh) -> dict[str, Any]:
    found = {
        "tied left out": left_out(mesh),
        "mean of means": mean_of_means(mesh),
        "evaluated": evaluated(mesh, {**CASE, "model": "vit"}),
        "evaluated in a v": evaluated(mesh, {**CASE, "schedule": V}) if possible([V]) else "refused",
        "bf16": compared(mesh, {**CASE, "model": "convnet", "precision": "bf16"}),
        "refused": refused(mesh),
    }
    program, _ = build(mesh, CASE)
    memory = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in program.model.parameters()}
    return {**found, "bytes": sum(memory.values()), "absent": len(program.held.absent)}


def left_out(mesh: Mesh) -> float:
    """Gradients, if those of the tied embedding are not summed."""
    _, wanted = reference(CASE)
    program, batch = build(mesh, CASE)
    program.exchange = program.exchange.inner
    found = train(program, batch, CASE, [0], mesh.world)
    return apart(found["gradients"], wanted["gradients"])


def mean_of_means(mesh: Mesh) -> float:
    """Gradients of one step, if each micro-batch had the mean over its own targets."""
    program, batch = build(mesh, CASE)
    single, _ = reference(CASE)
    whole, _ = build(Mesh(Group(0, 1), CPU, {"pipeline": Group(0, 1)}), CASE)
    batches = micro_batches(batch, 0, 2, [0])
    program.forward_backward(batches, single.counts(batches))
    program.exchange.before_step()
    for each in batches:
        whole.forward_backward([each], {term: count * 2 for term, count in whole.counts([each]).items()})
    names, others = program.held.names(), {name: each.grad for each, name in whole.held.names().items()}
    return apart({names[each]: each.grad for each in program.parameters()}, others)


def evaluated(mesh: Mesh, case: dict[str, Any]) -> float | None:
    """How far outputs in evaluation are from those of one process; ``None`` where there are none."""
    model, _ = reference(case)
    program, batch = build(mesh, case)
    train(program, batch, case, [0], mesh.world)
    model.model.eval()
    program.model.eval()
    worst = []
    for samples in (2, 1, 3):
        torch.manual_seed(samples)
        each = batch(samples)
        outputs = program.forward(each)
        if outputs is not None:
            wanted = model.forward(each)
            texts = [value if isinstance(value, torch.Tensor) else value.logits() for value in (outputs, wanted)]
            worst.append(float((texts[0] - texts[1]).abs().max()))
    return max(worst, default=None)


def refused(mesh: Mesh) -> list[str]:
    program, batch = build(mesh, CASE)
    said = []
    for batches in ([batch(2)], [batch(2), batch(1)]):
        with pytest.raises(ModelwrightError) as caught:
            program.forward_backward(batches, program.counts(batches))
        said.append(str(caught.value))
    return said


def test_a_program_evaluates_refuses_and_computes_in_other_precisions() -> None:
    first, second = run_world(f"{HERE}:facts", 2, layout={"pipeline": 2}, timeout=PATIENCE)
    for found in (first, second):
        assert found["tied left out"] > 1e-3
        assert found["mean of means"] > 1e-3
        for precision in ("bf16",):  # of the travelling tensors
            assert found[precision]["losses"] < 1e-6
            assert found[precision]["gradients"] < 1e-5
            assert found[precision]["types"] == ["torch.bfloat16"]  # not the masters' float32
        assert "needs at least 2 micro-batches" in found["refused"][0]
        assert "must be alike" in found["refused"][1]
    assert first["evaluated"] is None
    assert second["evaluated"] < EXACT
    if possible([V]):
        assert (first["evaluated in a v"] < EXACT, second["evaluated in a v"]) == (True, None)
    whole = sum(each.numel() for each in reference(CASE)[0].model.parameters()) * 8
    embedding = 23 * 8 * 8
    assert first["bytes"] + second["bytes"] < whole + embedding + 1000
