"""A profile of chosen steps: its trace, its sums, and nothing where none was asked for."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import heard, network
from torch import nn

from modelwright.base import phases
from modelwright.base.phases import Phase, enter
from modelwright.training.seeing.profiling import Profiler

SLEPT = 0.05


def loop(model: nn.Module, steps: int, slow: Phase = Phase.EXCHANGE) -> list[torch.Tensor]:
    """Steps as the loop marks them; one phase sleeps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for number in range(1, steps + 1):
        for phase in (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.EXCHANGE, Phase.OPTIMIZER):
            enter(phase, number if phase is Phase.DATA else None)
            if phase is Phase.FORWARD:
                loss = model(torch.ones(4, 5, dtype=torch.float64)).square().sum()
                losses.append(loss.detach())
            elif phase is Phase.BACKWARD:
                loss.backward()
            elif phase is Phase.OPTIMIZER:
                optimizer.step()
                optimizer.zero_grad()
            if phase is slow:
                time.sleep(SLEPT)
        enter(Phase.BETWEEN)
        torch.ones(3) @ torch.ones(3)
    return losses


def profiler(folder: Path, *steps: int, model: nn.Module | None = None, **fields: Any) -> Profiler:
    return Profiler(frozenset(steps), folder / "profile", model or network(), torch.device("cpu"), **fields)


def summary(folder: Path, step: int) -> dict[str, Any]:
    return json.loads((folder / "profile" / f"step-{step}.summary.json").read_text())


@pytest.mark.parametrize("slow", [Phase.DATA, Phase.EXCHANGE])
def test_the_time_is_told_by_phase_operator_and_module(tmp_path: Path, slow: Phase) -> None:
    model = network()
    with profiler(tmp_path, 2, 4, model=model).watching(), heard() as events:
        loop(model, 5, slow)
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "step-2.json.gz", "step-2.summary.json", "step-4.json.gz", "step-4.summary.json"
    ]  # fmt: skip
    told = summary(tmp_path, 4)
    by_phase = told["phases"]
    assert list(by_phase) == ["data", "forward", "backward", "exchange", "optimizer"]
    assert by_phase[slow.word]["seconds"] >= SLEPT and by_phase[slow.word]["share"] > 0.4
    assert sum(entry["seconds"] for entry in by_phase.values()) == pytest.approx(told["seconds"], rel=0.05)
    assert sum(entry["share"] for entry in by_phase.values()) == pytest.approx(1.0, abs=0.05)
    names = {entry["name"] for entry in told["operators"]}
    assert "aten::addmm" in names or "aten::mm" in names
    assert len(told["operators"]) <= 15
    seconds = [entry["seconds"] for entry in told["operators"]]
    assert seconds == sorted(seconds, reverse=True)
    assert {(entry["name"], entry["calls"]) for entry in told["modules"]} == {("0", 1), ("1", 1), ("2", 1)}
    assert [event.kind for event in events] == ["profiled", "profiled"]
    assert f"{slow.word} {by_phase[slow.word]['share']:.0%}" in events[1].message


def test_the_trace_is_one_that_perfetto_opens(tmp_path: Path) -> None:
    model = network()
    with profiler(tmp_path, 1, model=model).watching():
        loop(model, 2)
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "step-1.json.gz").read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"phase: forward", "phase: backward", "module: 2"} <= names
    assert any(str(name).startswith("aten::") for name in names)
    assert "aten::dot" not in names  # what comes between the steps is not of them


def test_without_a_wish_nothing_is_watched_and_nothing_written(tmp_path: Path) -> None:
    before = phases._watchers
    with profiler(tmp_path).watching():
        assert phases._watchers is before
        loop(network(), 2)
    assert not (tmp_path / "profile").exists()


def test_a_profile_changes_no_number_and_leaves_no_hook(tmp_path: Path) -> None:
    plain = loop(network(), 4)
    model = network()
    with profiler(tmp_path, 1, 2, 3, model=model).watching():
        looked = loop(model, 4)
    assert all(torch.equal(one, other) for one, other in zip(plain, looked, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_step_that_breaks_off_is_still_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), profiler(tmp_path, 1).watching():
        enter(Phase.DATA, 1)
        enter(Phase.FORWARD)
        raise RuntimeError("broken")
    assert list(summary(tmp_path, 1)["phases"]) == ["data", "forward"]


def test_every_rank_but_the_first_adds_its_number(tmp_path: Path) -> None:
    with profiler(tmp_path, 1, rank=3).watching(), heard() as events:
        loop(network(), 1)
    assert (tmp_path / "profile" / "step-1-rank-3.json.gz").exists() and not events


def test_modules_of_a_compiled_model_are_left_alone(tmp_path: Path) -> None:
    model = network()
    model[0]._compiled_call_impl = model[0]._call_impl  # what Module.compile() sets, without a compiler's minute
    with profiler(tmp_path, 1, model=model).watching():
        loop(model, 1)
    told = summary(tmp_path, 1)
    assert told["modules"] == [] and "compiled" in told["modules_note"]
