"""The command that waits for workers: it says which one hangs and where, and ends the run where that is wished."""

from __future__ import annotations

import inspect
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests import world
from tests.app import hanging

from modelwright.app.placing import PRELOAD
from modelwright.app.watch import run_workers
from modelwright.base.errors import RunFailed
from modelwright.base.plan import Plan
from modelwright.launch import Warm
from modelwright.runs import Run, read_events
from modelwright.training.watching import Watch

RECIPE = """
model: {{use: "tests.app.hanging:Hangs", seconds: {seconds}}}
data: {{use: "tests.app.hanging:samples"}}
objective: {{use: classification}}
optimizer: {{use: adamw}}
batch: 8
budget: {{steps: 12}}
"""


@pytest.fixture(scope="module")
def warm() -> Warm:
    parent = world.warm()
    parent.also((*PRELOAD, "tests.app.hanging"))
    assert parent.wait_ready()
    return parent


def begun(folder: Path, seconds: float) -> tuple[Run, Plan]:
    run = Run.create(folder, "hangs", "train")
    run.write_recipe(RECIPE.format(seconds=seconds))
    return run, run.write_plan(Plan(workers=2, layout={"replicate": 2}, micro_batch=4, steps=12))


def hangs(run: Run) -> list[tuple[str, str]]:
    return [(event.kind, event.message) for event in read_events(run.events_path) if event.kind.startswith("hang")]


def line() -> int:
    lines, first = inspect.getsourcelines(hanging.Hangs.forward)
    return next(first + place for place, text in enumerate(lines) if "time.sleep" in text)


def test_a_worker_that_hangs_is_named_and_the_run_ended_where_that_is_wished(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, 60)
    with pytest.raises(RunFailed) as told:
        run_workers(run, plan, warm, Console(file=StringIO()), watch=Watch(hang=2.0, hang_action="stop"))
    place = f"{hanging.__file__}:{line()} (forward)"
    assert f"no sign of life for 2 s: rank 1 is in forward of step 4 at {place}" in told.value.what
    assert told.value.what.endswith("rank 0 waits for it in exchange of step 4")
    assert told.value.where == str(run.logs) and "modelwright resume" in told.value.remedy
    assert hangs(run) == [("hang", told.value.what)]
    assert run.status() == "failed" and (run.logs / "rank-1.stack").stat().st_size


def test_a_warning_leaves_the_run_alone_and_its_end_is_told(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, 3)
    shown = StringIO()
    run_workers(run, plan, warm, Console(file=shown, width=400), watch=Watch(hang=1.5))
    assert run.status() == "finished"
    assert [kind for kind, _ in hangs(run)] == ["hang", "hang-over"]
    assert "rank 1 is in forward of step 4" in shown.getvalue()


def test_a_run_that_goes_on_raises_no_alarm(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, 0)
    run_workers(run, plan, warm, Console(file=StringIO()), watch=Watch(hang=1.5))
    assert run.status() == "finished" and hangs(run) == []
    assert not [*run.logs.glob("*.pulse"), *run.logs.glob("*.stack")]
