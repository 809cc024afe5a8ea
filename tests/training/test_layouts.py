"""Whole trainings in other layouts: losses, norms, scores and saved state are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.layouts import (
    COPIES,
    EXPERTS_EIGHT,
    EXPERTS_FOUR,
    EXPERTS_TWO,
    FOUR,
    FP16,
    SHORT,
    SPREAD,
    TWO,
    TWO_UPDATES,
    VARIANTS,
    WHOLE,
    matrix,
    outcome,
    prepared,
    reloaded,
    with_variant,
)
from tests.training.small import alone
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.world import Mesh, arranged
from modelwright.parallel.holdings import owned
from modelwright.parallel.pipeline.schedules import possible
from modelwright.training.prepared import Prepared

HERE = "tests.training.test_layouts"
TOLERANCES = {"float64": 1e-12, "float32": 1e-6}
ROUNDED = {"bf16": 2e-2, "bf16-weights": 3e-2, "fp16": 4e-3}
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
    exact = case.get("short") == "float64" or case.get("precision") not in ROUNDED
    return TOLERANCES[case.get("dtype", "float64")] if exact else ROUNDED[case["precision"]]


def runs_here(case: dict[str, Any]) -> bool:
    """Whether the torch that is installed computes the schedule rightly; it is refused otherwise."""
    return bool(possible([case.get("settings", {}).get("pipeline", {}).get("schedule", "1f1b")]))


def judge(cases: list[dict[str, Any]], ranks: int, folder: Path) -> None:
    cases = [case for case in cases if runs_here(case)]
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


def test_experts_divided_along_other_axes_train_like_one(tmp_path: Path, full: bool) -> None:
    uneven = {"batch": 7, "micro_batch": 1}  # some have one micro-batch more
    if not full:
        places = [(0, {}), (1, uneven), (2, {"average": True, "recompute": "full"}), (3, VARIANTS[1])]
        judge([with_variant(EXPERTS_FOUR[place], variant) for place, variant in places], 4, tmp_path)
        return
    judge(matrix(EXPERTS_TWO), 2, tmp_path / "2")
    judge([*matrix(EXPERTS_FOUR), *({**case, **uneven} for case in EXPERTS_FOUR[:5])], 4, tmp_path / "4")
    narrow = [with_variant(EXPERTS_EIGHT[0], COPIES), with_variant(EXPERTS_EIGHT[1], FP16)]
    judge([*EXPERTS_EIGHT, *narrow], 8, tmp_path / "8")


WHOLE_ON_TWO = [(1, 0), (2, 1), (5, 0)]
WHOLE_ON_FOUR = [(8, 1)]
NARROW = [(2, FP16), (12, FP16), (2, COPIES), (4, SHORT), (5, COPIES)]


def test_numbers_of_16_bits_are_rounded_as_in_one_process(tmp_path: Path, full: bool) -> None:
    """In fp16 two steps overflow and are left out, by the same events; the scale falls, and grows again."""
    if not full:  # where all of the matrix has it already
        judge([with_variant(TWO[place], variant) for place, variant in NARROW], 2, tmp_path)


def test_optimizers_that_see_whole_tensors_train_like_in_one_process(tmp_path: Path, full: bool) -> None:
    """What is divided is put together on one of its holders; all of the matrix has it already."""
    if not full:
        judge([with_variant(TWO[place], WHOLE[way]) for place, way in WHOLE_ON_TWO], 2, tmp_path / "two")
        judge([with_variant(FOUR[place], WHOLE[way]) for place, way in WHOLE_ON_FOUR], 4, tmp_path / "four")


def test_optimizers_of_torch_by_import_path_train_like_in_one_process(tmp_path: Path) -> None:
    wished = [(1, "adagrad"), (5, "adafactor")]
    judge([with_variant(TWO[place], {"optimizer": f"torch {name}"}) for place, name in wished], 2, tmp_path)


UPDATES_ON_TWO = [(1, 0), (2, 2), (3, 0), (1, 1)]


def test_several_updates_train_like_in_one_process(tmp_path: Path, full: bool) -> None:
    if not full:
        judge([with_variant(TWO[place], TWO_UPDATES[way]) for place, way in UPDATES_ON_TWO], 2, tmp_path)


def spoilt(mesh: Mesh, cases: list[dict[str, Any]], how: str) -> list[list[Any]]:
    """Of each case: of each step whether it is left out, whether it moved a weight, and the loss scale after it."""
    found = []
    for case in cases:
        made = prepared(arranged(mesh, case["layout"]), **case)
        if (scale := made.updates[0].scale) is not None:
            scale.value = 2.0**14
        if mesh.rank == (0 if "pipeline" in case["layout"] else mesh.size - 1):
            SPOILING[how](made)
        weights = list(made.state.model_tensors().values())
        before, told = [tensor.clone() for tensor in weights], []
        for step in made.steps(lambda: False):
            moved = any(not torch.equal(one, two) for one, two in zip(before, weights, strict=True))
            told.append([step.masked, moved, 1.0 if scale is None else scale.value])
            before = [tensor.clone() for tensor in weights]
        found.append(told)
    return found


def spoil_gradient(made: Prepared) -> None:
    """In the second step a gradient of this rank, of what it alone holds, is no number when all others are complete."""
    complete, program = made.program.exchange.before_step, made.program

    def spoil() -> None:
        complete()
        if made.state.step == 1:
            next(p for p in reversed(program.parameters()) if p.grad is not None).grad.view(-1)[:1] = float("nan")

    program.exchange.before_step = spoil  # type: ignore[method-assign]


def spoil_backward(made: Prepared) -> None:
    """In the second step what this rank sends back through its last block is more than float16 holds."""

    def enlarge(gradient: Tensor) -> Tensor:
        return gradient * 2.0**40 if made.state.step == 1 else gradient

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(enlarge)

    blocks = made.program.model.get_submodule("blocks")
    held = [block for block in blocks if all(map(owned, block.parameters()))]
    held[-1].register_forward_hook(watch)


SPOILING = {"gradient": spoil_gradient, "backward": spoil_backward}


def test_one_rank_without_a_number_masks_the_step_on_all(full: bool) -> None:
    two = [{"layout": {axis: 2}} for axis in ("shard", "tensor", "pipeline")]
    four = [EXPERTS_FOUR[0], EXPERTS_FOUR[3]] if full else []
    for ranks, cases in ((2, two), (4, four)):
        for rank in run_world(f"{HERE}:spoilt", ranks, cases=cases, how="gradient") if cases else ():
            assert rank == [[[False, True, 1.0], [True, False, 1.0], [False, True, 1.0]]] * len(cases)


def test_an_overflow_on_one_rank_lowers_the_scale_on_all(full: bool) -> None:
    cases = [with_variant(case, {"dtype": "float32", "precision": "fp16"}) for case in (TWO if full else TWO[1:6])]
    pieces = [case for case in cases if full and not case["layout"].keys() & {"replicate", "context"}]
    for how, chosen in (("backward", cases), ("gradient", pieces)):
        for rank in run_world(f"{HERE}:spoilt", 2, cases=chosen, how=how) if chosen else ():
            assert rank == [[[False, True, 2.0**14], [True, False, 2.0**6], [False, True, 2.0**6]]] * len(chosen)


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    wrong = [
        *(("replicate", "dropped reduction"), ("context", "dropped reduction")),
        *(("replicate", "mean of means"), ("shard", "mean of means")),
        *(("tensor", "own norm"), ("pipeline", "own norm")),
    ]
    cases: list[dict[str, Any]] = [{"layout": {axis: 2}, "fault": fault} for axis, fault in wrong]
    cases += [{"layout": {axis: 2}, "optimizer": "muon of pieces"} for axis in ("shard", "tensor")]
    seen_wrong(cases, 2, tmp_path)


def test_what_is_wrong_with_experts_is_seen(tmp_path: Path, full: bool) -> None:
    wrong = [("tensor", "own balance"), ("context", "own balance")]
    wrong += [("tensor", "own norm"), ("context", "dropped reduction")] if full else []
    model = {**SPREAD, "balance": 1.0}
    cases = [{"layout": {"expert": 2, axis: 2}, "model": model, "fault": fault} for axis, fault in wrong]
    seen_wrong(cases, 4, tmp_path)


def seen_wrong(cases: list[dict[str, Any]], ranks: int, folder: Path) -> None:
    found = run_world(f"{HERE}:compared", ranks, folder=str(folder), cases=cases)[0]
    for case, (distance, _) in zip(cases, found, strict=True):
        assert distance > 1e-3, case
