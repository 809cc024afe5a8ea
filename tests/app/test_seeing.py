"""Looking into a recorded training: what is written, and that nothing is changed by it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import BATCH, CLASSES, FEATURES, at, heard, points, prepare, same, snapshot
from tests.world import run_world
from torch import Tensor, nn

from modelwright.app.seeing import seeing
from modelwright.base.world import Mesh
from modelwright.runs import MetricsWriter, Run
from modelwright.runs.figures import figures
from modelwright.runs.metrics import read_metrics
from modelwright.runs.report import write_report
from modelwright.runs.seeing import flop_text
from modelwright.runs.seeing import seeing as sections
from modelwright.training.prepared import Prepared
from modelwright.training.steps import Step
from modelwright.training.watching import Watch

HERE = "tests.app.test_seeing"
SAMPLES, BAD, LEAP = 900, 4, 70


def faulty() -> dict[str, Tensor]:
    """Step 4 has a sample that is not a number, step 70 one far away."""
    arrays = points(SAMPLES)
    arrays["inputs"][at((BAD - 1) * BATCH + 2, SAMPLES), 0, 0] = torch.nan
    arrays["targets"][at((BAD - 1) * BATCH + 2, SAMPLES), 0] = 0
    arrays["inputs"][at((LEAP - 1) * BATCH + 5, SAMPLES)] *= -60
    return arrays


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, CLASSES)).double()


def trained(prepared: Prepared, run: Run, watch: Watch | None) -> Iterator[Step]:
    if watch is None:
        yield from (record for record in prepared.run(None, lambda: False) if isinstance(record, Step))
        return
    seconds: list[float] = []
    with seeing(prepared, run, watch) as look:
        for record in prepared.run(None, lambda: False):
            look(record)
            if isinstance(record, Step):
                seconds.append(record.step_seconds)
                yield record
        if prepared.group.rank == 0:
            run.update(summary=look.summary(statistics.median(seconds)))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "seen", "train")


def test_a_left_out_step_and_a_leap_are_told_and_written(run: Run) -> None:
    prepared = prepare(faulty(), model=linear(), total=80)
    with heard() as events:
        steps = list(trained(prepared, run, Watch()))
    assert [step.number for step in steps if step.masked] == [BAD]
    told = [event for event in events if event.kind in ("diagnosis", "loss-spike")]
    assert [(event.kind, event.details["step"], event.level) for event in told] == [
        ("diagnosis", BAD, "warning"), ("loss-spike", LEAP, "warning")
    ]  # fmt: skip
    broken = json.loads((run.path / "diagnosis" / f"step-{BAD}.json").read_text())
    assert broken["findings"][0]["samples"] == [at((BAD - 1) * BATCH + 2, SAMPLES)] and broken["exact"]
    leapt = json.loads((run.path / "diagnosis" / f"step-{LEAP}.json").read_text())
    assert leapt["kind"] == "spike" and leapt["worst"][0]["sample"] == at((LEAP - 1) * BATCH + 5, SAMPLES)


def test_looking_changes_no_bit(run: Run) -> None:
    plain, looked = (prepare(faulty(), model=linear(), total=75) for _ in range(2))
    list(trained(plain, run, None))
    list(trained(looked, run, Watch()))
    assert same(snapshot(plain), snapshot(looked))


def test_nothing_is_told_where_nothing_is_wished(run: Run) -> None:
    with heard() as events:
        list(
            trained(
                prepare(faulty(), model=linear(), total=75), run, Watch(spikes=False, diagnose=0, utilisation=False)
            )
        )
    assert [event.kind for event in events] == ["step-masked"]
    assert not (run.path / "diagnosis").exists() and "utilisation" not in run.record.summary


def test_as_many_left_out_steps_are_replayed_as_wished(run: Run) -> None:
    arrays = points(SAMPLES)
    for step in range(1, 6):
        arrays["inputs"][at((step - 1) * BATCH, SAMPLES)] = torch.nan
    with heard() as events:
        list(trained(prepare(arrays, model=linear(), total=8), run, Watch(diagnose=2)))
    assert [event.details["step"] for event in events if event.kind == "diagnosis"] == [1, 2]


def test_utilisation_is_in_the_summary_with_its_formula_and_source(run: Run) -> None:
    seconds = statistics.median(step.step_seconds for step in trained(prepare(points(), total=5), run, Watch()))
    facts = json.loads((run.path / "flops.json").read_text())
    assert facts["flops_per_step"] == facts["flops_per_sample"] * BATCH and facts["counted_on"] == "meta"
    assert "counted" in facts["formula"] and "measured" in facts["peak_source"]
    summary = run.record.summary
    expected = facts["flops_per_step"] / (seconds * facts["peak_flops"])
    assert summary["utilisation"] == pytest.approx(expected) and 0 < summary["utilisation"] < 1
    assert summary["peak_source"] == facts["peak_source"]


def over_ranks(mesh: Mesh, path: str) -> Any:
    run = Run(Path(path))
    with heard() as events:
        prepared = prepare(faulty(), mesh, model=linear(), total=75)
        steps = list(trained(prepared, run, Watch()))
    kinds = [event.kind for event in events if event.kind != "batch-norm-inexact"]
    return {"kinds": kinds, "losses": [step.losses["cross-entropy"] for step in steps[-3:]]}


def test_two_ranks_stay_together_and_the_first_one_tells(run: Run) -> None:
    one, other = run_world(f"{HERE}:over_ranks", 2, path=str(run.path))
    assert one["kinds"] == ["step-masked", "diagnosis", "loss-spike"] and other["kinds"] == []
    assert one["losses"] == other["losses"]
    broken = json.loads((run.path / "diagnosis" / f"step-{BAD}.json").read_text())
    assert [finding["rank"] for finding in broken["findings"]] == [0]
    leapt = json.loads((run.path / "diagnosis" / f"step-{LEAP}.json").read_text())
    assert leapt["worst"][0]["rank"] == 1
    assert json.loads((run.path / "flops.json").read_text())["workers"] == 2


# --- shown


def test_the_report_shows_what_was_seen(run: Run) -> None:
    pytest.importorskip("plotly")
    list(trained(prepare(faulty(), model=linear(), total=75), run, Watch()))
    titles = dict(sections(run))
    assert list(titles) == ["Utilisation", "Diagnoses"]
    assert "leapt" in titles["Diagnoses"] and "module &#x27;0&#x27; (Linear)" in titles["Diagnoses"]
    assert "FLOP/s; measured" in titles["Utilisation"]
    page = write_report(run).read_text()
    assert all(content in page for content in titles.values())


def test_a_profile_is_shown_and_a_damaged_one_is_said(run: Run) -> None:
    folder = run.path / "profile"
    folder.mkdir()
    entry = {"name": "aten::mm", "calls": 3, "seconds": 0.01, "device_seconds": 0.0}
    made = {
        "phases": {"forward": {"seconds": 0.03, "share": 0.75, "device_seconds": 0.0}},
        "seconds": 0.04, "operators": [entry], "modules": [entry | {"name": "<b>"}], "modules_note": "forward only",
        "trace": "step-20.json.gz",
    }  # fmt: skip
    (folder / "step-20.summary.json").write_text(json.dumps(made))
    (folder / "step-3.summary.json").write_text("{}")
    with heard() as events:
        titles = dict(sections(run))
    assert list(titles) == ["Profile of step 20"]
    assert "75.0%" in titles["Profile of step 20"] and "&lt;b&gt;" in titles["Profile of step 20"]
    assert [event.kind for event in events] == ["file-damaged"]


def test_gradient_norms_are_rows_and_a_figure(run: Run) -> None:
    """The norms of the modules make up the norm of the whole that the step tells."""
    prepared = prepare(points(), total=6)
    whole = {}
    with seeing(prepared, run, Watch(gradients=2, depth=1)) as look, MetricsWriter(run.metrics_path) as writer:
        for record in prepared.run(None, lambda: False):
            whole[record.number] = record.gradient_norm
            for row in look(record):
                writer.write(row)
    rows = read_metrics(run.metrics_path)
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        parts = [value for name, value in row.items() if name.startswith("gradient_norm/")]
        assert math.hypot(*parts) == pytest.approx(whole[row["step"]], rel=1e-12)
    (figure,) = figures(rows)
    assert figure.name == "module-norms" and [trace["name"] for trace in figure.data] == ["0", "2"]
    assert figure.layout["yaxis"]["type"] == "log"


def test_a_step_of_a_real_training_is_profiled(run: Run) -> None:
    list(trained(prepare(points(), total=6), run, Watch(profile=4, utilisation=False)))
    told = json.loads((run.path / "profile" / "step-4.summary.json").read_text())
    assert list(told["phases"]) == ["data", "forward", "backward", "exchange", "optimizer"]
    assert sorted(path.name for path in (run.path / "profile").iterdir()) == ["step-4.json.gz", "step-4.summary.json"]
    assert [title for title, _ in sections(run)] == ["Profile of step 4"]


def test_operations_are_said_in_their_size() -> None:
    assert [flop_text(value) for value in (12, 3.1e6, 9.894e14)] == ["12 FLOP", "3.1 MFLOP", "989 TFLOP"]
