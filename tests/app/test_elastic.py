"""A run that may shrink goes on with the workers that are left and grows again: same samples, same losses."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests import world
from tests.command import is_alive, until, worker_pids

from modelwright.app.elastic import IN_VAIN, Worlds, check_sizes, modules_of
from modelwright.app.placing import PRELOAD
from modelwright.app.watch import run_workers
from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.files import read_json
from modelwright.base.plan import Plan
from modelwright.launch import Failure, JobStatus, Warm
from modelwright.recipe import load_recipe
from modelwright.recipe.schema import Launch
from modelwright.runs import LoggedEvent, Run, read_events, read_metrics
from modelwright.runs.metrics import steps
from modelwright.runs.sample_log import counted, read_samples

STEPS, BATCH = 90, 32
SLOW = "{use: 'tests.app.brought:Slow', seconds: 0.005}"
FAILS = "tests.app.brought:FailsInTraining"
RECIPE = """
model: {model}
data: sklearn
objective: classification
optimizer: {{use: sgd, lr: 0.05, momentum: 0.9}}
batch: 32
budget: {{steps: 90}}
saving: {{every: 8}}
watch: {{samples: true, utilisation: false}}
launch: {launch}
"""


@pytest.fixture(scope="module")
def warm() -> Warm:
    parent = world.warm()
    parent.also((*PRELOAD, "tests.app.brought"))
    assert parent.wait_ready()
    return parent


def begun(folder: Path, name: str, launch: str = "{}", *, workers: int = 3, model: str = SLOW) -> tuple[Run, Plan]:
    run = Run.create(folder, name, "train")
    run.write_recipe(RECIPE.format(model=model, launch=launch))
    return run, run.write_plan(Plan(workers=workers, layout={"replicate": workers}, micro_batch=6, steps=STEPS))


def train(run: Run, plan: Plan, warm: Warm) -> str:
    shown = StringIO()
    run_workers(run, plan, warm, Console(file=shown, width=400))
    return shown.getvalue()


@contextmanager
def struck(run: Run, *blows: tuple[int, int, int]) -> Iterator[None]:
    """Send signals from a thread: each ``(step, rank, signal)`` once that step is begun and the rank is there."""

    def strike() -> None:
        for step, rank, number in blows:
            until(lambda step=step: any(used.step >= step for used in read_samples(run)), f"step {step}")
            os.kill(worker_pids(run.path)[rank], number)

    thread = threading.Thread(target=strike)
    thread.start()
    yield
    thread.join()


def told(run: Run, *kinds: str) -> list[LoggedEvent]:
    return [event for event in read_events(run.events_path) if event.kind in kinds]


def attempts(run: Run) -> int:
    return (run.logs / "rank-0.txt").read_text().count("--- attempt ")


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in steps(read_metrics(run.metrics_path))]


def test_a_run_shrinks_and_grows_and_learns_the_same_from_the_same_samples(tmp_path: Path, warm: Warm) -> None:
    undisturbed, plan = begun(tmp_path, "undisturbed")
    train(undisturbed, plan, warm)
    run, plan = begun(tmp_path, "struck", "{min: 1, max: 3, rejoin: 300ms}")
    with struck(run, (20, 1, signal.SIGKILL)):
        said = train(run, plan, warm)
    assert run.status() == "finished" and run.record.error is None
    assert counted(read_samples(run)) == counted(read_samples(undisturbed))
    assert losses(run) == pytest.approx(losses(undisturbed), abs=1e-6)

    kinds = [event.kind for event in told(run, "worker-lost", "world-reformed", "world-grows")]
    assert kinds == ["worker-lost", "world-reformed", "world-grows", "world-reformed"]
    lost, shrunk, _, grown = (event.details for event in told(run, "worker-lost", "world-reformed", "world-grows"))
    assert (lost["ranks"], lost["signal"], lost["before"], lost["left"]) == ([1], "SIGKILL", 3, 2)
    assert lost["step"] >= 20
    assert (shrunk["before"], shrunk["workers"], shrunk["plan"]) == (3, 2, 2)
    assert shrunk["step"] % 8 == 0 and 8 <= shrunk["step"] < lost["step"]
    assert (grown["before"], grown["workers"], grown["plan"]) == (2, 3, 3)
    assert grown["step"] >= shrunk["step"] and shrunk["seconds"] < 10
    assert "rank 1 was killed by SIGKILL" in said and f"goes on after step {shrunk['step']} of 90" in said

    plans = [Plan.from_json(read_json(run.path / name)) for name in ("plan-1.json", "plan-2.json", "plan.json")]
    assert [each.workers for each in plans] == [3, 2, 3] and plans[1].layout == {"replicate": 2}
    assert replace(plans[2], number=1) == plans[0]


def test_nothing_is_done_twice_where_the_world_grows(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "grows", "{min: 1, rejoin: 300ms}", workers=2)
    with struck(run, (10, 0, signal.SIGKILL)):
        train(run, plan, warm)
    grown = told(run, "world-reformed")[-1].details["step"]
    lines = read_samples(run)
    assert min(used.step for used in lines if used.generation == lines[-1].generation) == grown + 1
    assert counted(lines).keys() == set(range(1, STEPS + 1))


def test_a_worker_that_is_asked_to_leave_costs_no_step(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "leaves", "{min: 1}", workers=2)
    with struck(run, (10, 1, signal.SIGTERM)):
        train(run, plan, warm)
    assert [event.kind for event in told(run, "worker-left", "worker-lost")] == ["worker-left"]
    rows = [row["step"] for row in steps(read_metrics(run.metrics_path))]
    assert rows == list(range(1, STEPS + 1)) and run.status() == "finished"


def test_fewer_than_wished_end_the_run_as_ever(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "ends", "{min: 2}", workers=2)
    with struck(run, (10, 1, signal.SIGKILL)), pytest.raises(RunFailed, match="rank 1 was killed by SIGKILL"):
        train(run, plan, warm)
    assert run.status() == "failed" and attempts(run) == 1
    assert told(run, "world-given-up")[0].message.endswith("launch.min asks for at least 2 workers")
    assert not any(is_alive(pid) for pid in worker_pids(run.path))


def test_without_the_wish_nothing_changes(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "rigid", workers=2)
    with struck(run, (10, 1, signal.SIGKILL)), pytest.raises(RunFailed, match="rank 1 was killed by SIGKILL"):
        train(run, plan, warm)
    assert attempts(run) == 1 and not told(run, "worker-lost", "world-given-up")


def test_what_a_worker_raises_is_not_tried_again(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "bug", "{min: 1}", workers=2, model=FAILS)
    with pytest.raises(RunFailed, match="the cat sat on it"):
        train(run, plan, warm)
    assert attempts(run) == 1 and not told(run, "worker-lost")


def test_a_resumed_run_takes_the_whole_plan_again(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "resumed", workers=3)
    shrunk = Worlds(run, plan, Launch(min=1), warm)
    assert shrunk.goes_on(died(step=5)) and shrunk.plan.workers == 2
    newest = run.plan()
    assert newest is not None and newest.workers == 2
    again = Worlds(run, newest, Launch(min=1), warm)
    assert replace(again.plan, number=1) == plan and run.plan() == again.plan
    assert Worlds(run, newest, Launch(), warm).plan == newest
    assert Worlds(run, newest, Launch(min=1, max=2), warm).plan.workers == 2


def died(*, step: int, ranks: tuple[int, ...] = (0,)) -> JobStatus:
    failure = Failure(
        rank=ranks[0], exit_code=None, signal="SIGSEGV", last_lines=(), error=None, exception=None, log=Path("log"),
        lost=ranks, step=step,
    )  # fmt: skip
    return JobStatus(state="failed", failure=failure)


def test_a_step_that_kills_every_world_ends_the_run(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "deadly", workers=9)
    worlds = Worlds(run, plan, Launch(min=1), warm)
    assert [worlds.goes_on(died(step=7)) for _ in range(IN_VAIN + 1)] == [True] * IN_VAIN + [False]
    assert "3 worlds in a row reached no new step" in told(run, "world-given-up")[0].message
    run, plan = begun(tmp_path, "unlucky", workers=9)
    worlds = Worlds(run, plan, Launch(min=1), warm)
    assert all(worlds.goes_on(died(step=step)) for step in range(7, 15))


def test_a_least_number_that_cannot_be_is_refused(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "few", workers=2)
    with pytest.raises(ModelwrightError, match=r"launch\.min asks for at least 3 workers, but the plan has 2"):
        Worlds(run, plan, Launch(min=3), warm)
    check_sizes(Launch(min=3), "auto")
    for wrong in ({"min": 0}, {"min": 3, "max": 2}, {"max": 2}, {"min": 1, "rejoin": -1.0}):
        with pytest.raises(ModelwrightError):
            Launch(**wrong)  # type: ignore[arg-type]


def test_what_a_recipe_takes_from_the_package_is_known_and_what_is_the_users_left_alone(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, "modules")
    modules = modules_of(load_recipe(run.recipe_path))
    assert {"modelwright.data.sklearn_sets", "modelwright.optim.sgd"} < modules
    assert all(module.startswith("modelwright.") for module in modules)


def test_samples_are_written_before_their_step_is_computed(tmp_path: Path, warm: Warm) -> None:
    run, plan = begun(tmp_path, "noted", workers=2, model=FAILS)
    with pytest.raises(RunFailed):
        train(run, plan, warm)
    assert not losses(run)
    (first,) = counted(read_samples(run)).values()
    assert len(first) == len(np.unique(first)) == BATCH
