"""The demo where there is nothing to set beside compressors."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.command import TEXT, trained, write_recipe

from modelwright.app import demo
from modelwright.app.reporting import report_or_say
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
