"""The demo where there is nothing to set beside compressors."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.command import TEXT, trained, write_recipe

from modelwright.app import demo
from modelwright.app.account import account
from modelwright.app.reporting import report_or_say
from modelwright.base.plan import Prediction
from modelwright.base.units import count_text, seconds_text
from modelwright.runs import Run


def test_a_demo_without_held_out_files_ends_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RECIPE", "recipe.yaml")
    write_recipe(TEXT | {"budget": "{steps: 2}"})
    overrides = ["data.held_out=0", "evaluation.metrics=[]"]
    run = demo.demo(folder=Path("runs"), console=Console(file=io.StringIO()), overrides=overrides)
    assert run.status() == "finished"
    assert "held_out" not in run.record.summary


def test_a_report_that_cannot_be_written_is_told() -> None:
    run = Run(trained("digits", "mine"))
    told = io.StringIO()
    (run.path / "plan.json").write_text("[damaged]")
    assert report_or_say(run, Console(file=told)) is None
    assert "no report" in told.getvalue()
    assert "plan.json" in told.getvalue()


def test_the_account_of_a_classifier() -> None:
    run = Run(trained("digits", "mine"))
    told = account(run)
    summary = run.record.summary
    assert told["model"].startswith(f"{count_text(summary['parameters'])} parameters, ")
    assert told["trained"].startswith(f"12 steps, {summary['samples']} samples in ")
    assert told["speed"].endswith(" samples/s")
    assert told["held-out accuracy"] == f"{summary['held_out']['accuracy']:.4g}"
    assert told["weights"] == "runs/mine/artifacts/model.safetensors"
    assert told["report"] == "runs/mine/report.html"
    assert told["next"] == "modelwright evaluate mine"


def test_the_account_of_a_language_model() -> None:
    told = account(Run(trained("text", "mine")))
    assert " tokens in " in told["trained"]
    assert told["speed"].endswith(" tokens/s")
    assert "held-out bits per byte" in told
    assert told["next"].startswith("modelwright generate mine --prompt ")


def test_the_account_holds_only_what_is_known() -> None:
    run = Run(trained("digits", "mine", status="stopped", summary={"steps": 1}))
    run.report_path.unlink()
    (run.artifacts / "model.safetensors").unlink()
    assert account(run) == {"trained": "1 step", "next": "modelwright resume mine"}


@pytest.mark.parametrize(("slower", "told"), [(1.2, ""), (1.3, " (planned 1m30s)")])
def test_a_training_that_took_longer_than_planned_says_so(slower: float, told: str) -> None:
    run = Run(trained("digits", "mine", summary={"steps": 12, "seconds": 90 * slower}))
    plan = run.plan()
    assert plan is not None
    run.write_plan(replace(plan, prediction=_prediction(90 / plan.steps)))
    assert account(run)["trained"] == f"12 steps in {seconds_text(90 * slower)}{told}"


def _prediction(step_seconds: float) -> Prediction:
    return Prediction(
        step_seconds=step_seconds,
        step_seconds_low=step_seconds,
        step_seconds_high=step_seconds,
        peak_bytes=1,
        samples_per_second=1.0,
        source="a test",
    )
