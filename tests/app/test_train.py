"""What a training tells while it runs, and where it leaves what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.command import DIGITS, invoke, write_recipe

from modelwright.base.plan import Plan
from modelwright.runs import Run, read_events
from modelwright.runs.metrics import read_metrics

OWN = DIGITS | {"model": "{use: 'tests.app.brought:Linear'}"}


def kinds(run: str) -> list[str]:
    return [event.kind for event in read_events(Path("runs") / run / "events.jsonl")]


def trained(fields: dict[str, str], name: str, *overrides: str) -> tuple[Run, str]:
    outcome = invoke("train", str(write_recipe(fields)), *overrides, "--name", name)
    assert outcome.code == 0, outcome.err
    return Run(Path("runs") / name), outcome.out


def told(said: str) -> list[str]:
    """The warnings on the screen, the first line of each."""
    return [line.removeprefix("! ") for line in said.splitlines() if line.startswith("! ")]


def plan_of(run: Run) -> Plan:
    plan = run.plan()
    assert plan is not None
    return plan


def test_what_is_told_while_the_training_is_built_is_recorded_and_shown() -> None:
    normed = DIGITS | {"model": "{use: 'tests.app.brought:Normed'}", "plan": "{measure: false, workers: 2, threads: 1}"}
    _, said = trained(normed, "normed")
    assert kinds("normed").count("batch-norm-inexact") == 1
    (line,) = told(said)
    assert line.startswith("1 batch-norm modules compute their statistics per worker")


def test_a_scalar_loss_is_told_once_by_its_name() -> None:
    fields = OWN | {"objective": "tests.app.brought:mean_loss", "plan": "{measure: false, workers: 2, threads: 1}"}
    _, said = trained(fields, "scalar")
    (line,) = told(said)
    assert line.startswith("the objective mean_loss returned one number, taken as the mean over its")


def test_a_loss_of_ones_own_is_not_put_into_bfloat16_unasked() -> None:
    fields = OWN | {"objective": "tests.app.brought:log_loss", "plan": "{measure: false, workers: 1, threads: 1}"}
    run, _ = trained(fields, "kept")
    assert plan_of(run).precision == "fp32"
    assert "precision-kept" in kinds("kept")
    run, _ = trained(fields, "asked", "plan.precision=bf16")
    assert plan_of(run).precision == "bf16"
    losses = [row["loss"] for row in read_metrics(run.metrics_path) if row["kind"] == "step"]
    assert any(loss * 1024 % 1 for loss in losses)  # sums of at least float32, whatever the samples' losses are


def test_metrics_of_outputs_that_a_function_hides_are_refused() -> None:
    fields = OWN | {"objective": "tests.app.brought:log_loss", "evaluation": "{metrics: [accuracy]}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "refused")
    assert outcome.code == 2
    assert "hands over losses only" in outcome.err
    assert "evaluation.metrics" in outcome.err
    assert not Path("runs/refused").exists()


def test_a_failed_run_has_a_report() -> None:
    fields = DIGITS | {"model": "{use: 'tests.app.brought:FailsInTraining'}"}
    outcome = invoke("train", str(write_recipe(fields)), "--name", "failed")
    assert outcome.code == 3
    assert "the cat sat on it" in Path("runs/failed/report.html").read_text()


def test_the_command_that_was_typed_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["modelwright", "train", "recipe.yaml"])
    run, _ = trained(DIGITS, "typed")
    assert json.loads(run.environment_path.read_text())["argv"] == ["modelwright", "train", "recipe.yaml"]
