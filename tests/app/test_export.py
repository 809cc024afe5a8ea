"""``modelwright runs export`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelwright.cli import app
from modelwright.runs import MetricsWriter, Run

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported to


@pytest.fixture
def run() -> Run:
    run = Run.create(Path("runs"), "digits", "train")
    run.write_recipe("batch: 32\n")
    with MetricsWriter(run.metrics_path) as writer:
        writer.write({"kind": "step", "step": 1, "loss": 0.5, "seconds": 1.0})
    return run


def export(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["runs", "export", "digits", *arguments])


@pytest.mark.parametrize("to", ["tensorboard", "mlflow"])
def test_it_says_where_it_is_and_how_to_look(run: Run, to: str) -> None:
    pytest.importorskip(to)
    first, again = export("--to", to), export("--to", to)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert str(Path("runs") / to) in first.output.replace("\n", "") and "see them:" in first.output
    assert "replaced" in again.output and "replaced" not in first.output


def test_machines_read_json(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    facts = json.loads(export("--to", "tensorboard", "--out", str(tmp_path / "boards"), "--json").stdout)
    assert facts["points"] == 1 and Path(facts["place"]) == tmp_path / "boards" / "digits"


def test_a_tool_that_is_not_known_is_said(run: Run) -> None:
    told = export("--to", "wandb")
    assert told.exit_code == 2 and "there is no exporter named 'wandb'" in told.output
