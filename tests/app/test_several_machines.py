"""Training from Python below elastic agents: runs that other machines have worked on, and those that they take over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.command import change_json, steps_in
from tests.world import run_world
from torch import Tensor, nn

import modelwright as mw
from modelwright.app import session
from modelwright.base.errors import Stopped
from modelwright.base.world import Mesh
from modelwright.runs import Run, read_events
from modelwright.runs.fence import Fence, TakenOver
from modelwright.runs.process import this_process
from modelwright.training.watching import Watch

HERE = "tests.app.test_several_machines"
RUN = Path("runs/mine")
ELSEWHERE = {"host": "another-machine", "boot": "", "pid": 1, "started": ""}


def squared(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["inputs"]) - batch["targets"]).square().mean(dim=1)


def fitted(objective: Any = squared, **options: Any) -> mw.Result:
    torch.manual_seed(0)
    inputs = torch.linspace(-1, 1, 128).view(64, 2)
    data = (inputs, inputs @ torch.tensor([[2.0], [-1.0]]) + 0.5)
    options = {"run": RUN, "saving": mw.Saving(every=5), "watch": Watch(utilisation=False)} | options
    return mw.train(nn.Linear(2, 1), data, objective=objective, budget="30 steps", batch=16, quiet=True, **options)


class Breaking:
    """An objective that does something in one step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act, self.calls = step, act, 0

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        if self.calls == self.step:
            self.act()
        return squared(model, batch)


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def files() -> dict[str, bytes]:
    """What the run consists of, but for what is only ever added to."""
    added = {"metrics.jsonl", "events.jsonl"}
    return {str(path): path.read_bytes() for path in RUN.rglob("*") if path.is_file() and path.name not in added}


# --- the fence


@pytest.mark.parametrize("then", ["train", "stop", "fail"])
def test_a_world_that_lost_its_run_publishes_nothing_more(then: str) -> None:
    kept: dict[str, bytes] = {}

    def taken_over() -> None:
        while not (RUN / "checkpoints/step-00000010").exists():
            time.sleep(0.001)  # what was begun before is published
        Fence.take(RUN)
        kept.update(files())
        if then == "stop":
            stop()
        if then == "fail":
            raise ValueError("a peer is gone")

    with pytest.raises(TakenOver, match="another world has taken the run over: on"):
        fitted(Breaking(13, taken_over))
    assert files() == kept
    assert json.loads((RUN / "run.json").read_text())["status"] == "running"  # as the other world says
    assert any("step-00000010/" in name for name in kept)


def test_a_world_that_lost_its_run_while_it_loaded_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(ELSEWHERE, status="stopped")
    load, kept = session.checkpoints.load_newest, {}

    def slowly(*arguments: Any) -> Path | None:
        loaded = load(*arguments)
        Fence.take(RUN)
        kept.update(files() | {"metrics": (RUN / "metrics.jsonl").read_bytes()})
        return loaded

    monkeypatch.setattr(session.checkpoints, "load_newest", slowly)
    with pytest.raises(TakenOver):
        fitted()
    assert files() | {"metrics": (RUN / "metrics.jsonl").read_bytes()} == kept


def test_who_takes_a_run_over_goes_on_as_if_alone() -> None:
    whole = fitted(run="runs/whole")
    with pytest.raises(TakenOver):
        fitted(Breaking(13, lambda: Fence.take(RUN)))
    change_json(RUN / "run.json", process=ELSEWHERE, status="stopped")
    assert torch.equal(fitted().model.weight, whole.model.weight)
    assert steps_in(RUN) == list(range(1, 31))


# --- who may take a run up


def broken_off(process: dict[str, Any], status: str = "running") -> None:
    with pytest.raises(mw.ModelwrightError):
        fitted(Breaking(12, lambda: 1 / 0))
    change_json(RUN / "run.json", process=process, status=status)


@pytest.mark.parametrize(
    ("job", "recorded", "free"),
    [("a", "a", True), ("a", "b", False), ("a", None, False), (None, "a", False), ("none", "none", False)],
)
def test_a_run_that_another_machine_worked_on(
    job: str | None, recorded: str | None, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only agents of the same job are known to have ended the world before; else it may still be at work."""
    broken_off(ELSEWHERE | ({"job": recorded} if recorded else {}))
    if job is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
    if free:
        assert fitted().summary["status"] == "finished"
        return
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken"):
        fitted()


def test_what_is_seen_to_live_is_left_alone_also_in_the_same_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    broken_off(this_process())
    assert this_process()["job"] == "a"
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken"):
        fitted()


def test_a_finished_run_is_scored_again_where_its_own_job_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last world may be told to make room when it has just finished; the next one must not fail for that."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    first = fitted()
    again = fitted()
    assert torch.equal(again.model.weight, first.model.weight)
    assert again.summary["status"] == "finished" and steps_in(RUN) == list(range(1, 31))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "b")
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken"):
        fitted()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    change_json(RUN / "run.json", ended="2026-01-01T00:00:00+00:00")  # a job of some other day
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken"):
        fitted()


HOLD = """
import sys, time
from pathlib import Path
from modelwright.runs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_that_stands_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file server keeps that of a machine which is gone."""
    broken_off(ELSEWHERE | {"job": "a"})
    command = [sys.executable, "-c", HOLD, str(RUN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(mw.ModelwrightError, match="still at work in another process"):
            fitted()
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
        os.set_blocking(holder.stdin.fileno(), False)
        holder.stdin.write("let go\n")
        holder.stdin.flush()
        assert fitted().summary["status"] == "finished"


# --- leaving


def leave_on_rank(mesh: Mesh, folder: str, asked: int, job: str | None) -> dict[str, Any]:
    if job is not None:
        os.environ["TORCHELASTIC_RUN_ID"] = job
    objective = Breaking(12, stop) if mesh.rank == asked else squared
    try:
        result = fitted(objective, run=f"{folder}/runs/mine")
    except Stopped as error:
        return {"raised": error.what}
    return {"status": result.summary["status"], "steps": result.summary["steps"]}


def test_who_was_not_asked_to_stop_ends_so_that_its_agent_does_not_take_it_for_done(home: Path) -> None:
    told = run_world(f"{HERE}:leave_on_rank", 2, folder=str(home), asked=1, job="a")
    assert told[1] == {"status": "stopped", "steps": 12}
    assert "another process was asked to stop, so all did after step 12" in told[0]["raised"]
    run = Run(RUN)
    assert run.status() == "stopped" and (run.checkpoints / "step-00000012").is_dir()


def test_without_agents_all_stop_in_order(home: Path) -> None:
    told = run_world(f"{HERE}:leave_on_rank", 2, folder=str(home), asked=1, job=None)
    assert told == [{"status": "stopped", "steps": 12}] * 2
    assert not [event for event in read_events(Run(RUN).events_path) if event.level == "error"]
