"""Launched workers that are stopped, killed or find a damaged checkpoint go on as if nothing had been."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import world
from tests.training.jobs import PATIENCE, Outcome, Split, launch, resumed

from modelwright.launch import Warm
from modelwright.runs import Run
from modelwright.runs.eventlog import read_events
from modelwright.training.checkpoints import list_checkpoints

STEPS, EVERY = 120, 10
SPLIT = Split(workers=2, micro_batch=2)
RECIPE = f"""
seed: 5
model: {{use: "tests.training.jobs:small_gpt", dropout: 0.2}}
data: {{use: "tests.training.jobs:sparse_targets", seed: 5, batch: 8, steps: {STEPS}}}
objective: {{use: next-token}}
optimizer: {{use: adamw, lr: 3e-3}}
batch: 8
budget: {{steps: {STEPS}}}
saving: {{every: {EVERY}}}
"""


@pytest.fixture(scope="module")
def warm() -> Warm:
    parent = world.warm()
    parent.also(["modelwright.app.worker"])
    return parent


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch(tmp_path_factory.mktemp("runs"), warm, RECIPE, [SPLIT], steps=STEPS)[0]


def planned(folder: Path) -> Run:
    run = Run.create(folder, None, "train")
    run.write_recipe(RECIPE)
    run.write_plan(SPLIT.plan(STEPS))
    return run


def await_checkpoint(run: Run) -> None:
    end = time.monotonic() + PATIENCE
    while not list_checkpoints(run.checkpoints):
        assert time.monotonic() < end, (run.logs / "rank-0.txt").read_text()
        time.sleep(0.01)


def finish(run: Run, warm: Warm) -> None:
    with resumed(run, warm) as job:
        assert job.wait(PATIENCE).state == "finished"


def same(run: Run, expected: Outcome) -> bool:
    """Whether losses and weights agree in every bit."""
    found = Outcome(run)
    weights, wanted = found.weights, expected.weights
    return found.losses.tolist() == expected.losses.tolist() and all(
        torch.equal(weights[name], value) for name, value in wanted.items()
    )


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_an_ended_run_goes_on_to_the_same_bits(how: str, warm: Warm, undisturbed: Outcome, tmp_path: Path) -> None:
    run = planned(tmp_path)
    with resumed(run, warm) as job:
        await_checkpoint(run)
        getattr(job, how)()
        job.wait(PATIENCE)
    assert run.status() == {"terminate": "stopped", "kill": "interrupted"}[how]
    assert EVERY <= int(list_checkpoints(run.checkpoints)[0].name[5:]) < STEPS
    finish(run, warm)
    assert run.status() == "finished"
    assert same(run, undisturbed)
    assert [event.kind for event in read_events(run.events_path)].count("resumed") == 1


def test_a_damaged_checkpoint_costs_only_time(warm: Warm, undisturbed: Outcome, tmp_path: Path) -> None:
    run = planned(tmp_path)
    finish(run, warm)
    newest = list_checkpoints(run.checkpoints)[0] / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    finish(run, warm)
    events: list[Any] = read_events(run.events_path)
    assert {event.details["path"] for event in events if event.kind == "checkpoint-damaged"} == {str(newest.parent)}
    assert [event.message for event in events if event.kind == "resumed"] == [f"goes on after step 110 of {STEPS}"]
    assert same(run, undisturbed)
    assert newest.read_bytes() != bytes(content)
