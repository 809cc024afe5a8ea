"""``modelwright resume``: what may be overridden, what is refused, and what is still the same run in every bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.app.going_on import (
    FIELDS,
    KINDS,
    STEPS,
    events,
    finished,
    go_on,
    losses,
    original,
    rewound,
    samples,
    weights,
)
from tests.command import change_json, started, trained, until, worker_pids, write_recipe

from modelwright.base.plan import Plan
from modelwright.runs import Run
from modelwright.runs.weights import list_checkpoints


def plan_of(run: Run) -> Plan:
    plan = run.plan()
    assert plan is not None
    return plan


# --- the same run


def test_without_overrides_it_is_the_same_in_every_bit() -> None:
    run = rewound("dropout", 6)
    go_on("resume", "mine")
    assert weights(run) == weights(original("dropout"))
    assert losses(run) == losses(original("dropout"))
    assert samples(run) == samples(original("dropout"))
    assert not events(run, "replanned") and not events(run, "resumed-elsewhere")
    assert plan_of(run).number == 1


def test_killed_as_a_whole_at_random_instants_it_ends_in_the_same_bits() -> None:
    """With dropout, accumulation over micro-batches, and averages."""
    steps, draw = 150, random.Random(4)
    write_recipe(KINDS["dropout"] | {"budget": f"{{steps: {steps}}}", "saving": "{every: 7}"})
    go_on("train", "recipe.yaml", "--name", "whole")
    run = Run(Path("runs/mine"))
    for verb in (("train", "recipe.yaml", "--name", "mine"), ("resume", "mine")):
        _begin_and_kill(verb, run, draw.uniform(0, 0.3))
        until(lambda: run.status() == "interrupted", "the end of the last worker")
    go_on("resume", "mine")
    assert list(losses(run)) == list(range(1, steps + 1))
    assert losses(run) == losses(Path("runs/whole"))
    assert weights(run) == weights(Path("runs/whole"))
    assert len(events(run, "resumed")) == 2


def _begin_and_kill(verb: Sequence[str], run: Run, seconds: float) -> None:
    """End the command and its workers, at an instant after its first new checkpoint."""
    before = _newest(run)
    with started(*verb) as process:
        until(lambda: _newest(run) > before, "a checkpoint", process)
        time.sleep(seconds)
        pids = [process.pid, *worker_pids(run.path)]
        for pid in pids:
            with suppress(ProcessLookupError):  # it died of its parent's death
                os.kill(pid, signal.SIGKILL)
    assert len(pids) == 3


def _newest(run: Run) -> int:
    return max((int(path.name[5:]) for path in list_checkpoints(run.checkpoints)), default=0)


# --- otherwise arranged


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_sees_the_same_samples_and_losses(workers: int) -> None:
    run = rewound("text", 6)
    said = go_on("resume", "mine", "--workers", str(workers))
    assert samples(run) == samples(original("text"))
    assert len(samples(run)) == STEPS
    assert losses(run) == pytest.approx(losses(original("text")), rel=1e-6)
    (event,) = events(run, "replanned")
    assert event.level == "warning" and event.details["exact"] is False
    assert event.details["changed"] == {"workers": [2, workers]}
    assert event.message.startswith(f"after step 6 the run goes on with workers {workers} instead of 2")
    assert "no longer the run as begun in every bit (workers)" in event.message
    assert event.message in said


def test_one_worker_goes_on_as_two_and_the_plan_is_numbered() -> None:
    run = rewound("text", 3)
    go_on("resume", "mine", "plan.workers=1")
    rewind(run, 6)
    go_on("resume", "mine", "plan.workers=2", "plan.threads=1")
    assert losses(run) == pytest.approx(losses(original("text")), rel=1e-6)
    assert plan_of(run).number == 3
    assert sorted(path.name for path in run.path.glob("plan*.json")) == ["plan-1.json", "plan-2.json", "plan.json"]
    assert sorted(path.name for path in run.path.glob("recipe*.yaml")) == [
        "recipe-1.yaml",
        "recipe-2.yaml",
        "recipe.yaml",
    ]
    assert plan_of(run).layout == {"replicate": 2}
    assert run.ours()


def rewind(run: Run, step: int) -> None:
    for path in list_checkpoints(run.checkpoints):
        if int(path.name[5:]) > step:
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()
    run.update(status="stopped")


def test_the_control_other_samples_would_be_seen() -> None:
    run = rewound("text", 6)
    text = run.recipe().replace("seed: 0", "seed: 1")
    assert text != run.recipe()
    before = samples(original("text"))
    go_on("resume", "mine", "--workers", "1", "seed=1", code=2)
    assert samples(run) == before  # nothing was begun


def test_what_changes_no_bit_is_told_so() -> None:
    run = rewound("dropout", 6)
    go_on("resume", "mine", "plan.recompute=full", "saving.every=2", "watch.spikes=false", "evaluation.every=5")
    assert weights(run) == weights(original("dropout"))
    (event,) = events(run, "replanned")
    assert event.details["exact"] is True and event.level == "info"
    assert "changes no bit" in event.message
    assert [int(path.name[5:]) for path in list_checkpoints(run.checkpoints)][:3] == [12, 10, 8]


def test_threads_and_micro_batches_are_named() -> None:
    run = rewound("text", 6)
    go_on("resume", "mine", "plan.threads=2", "plan.micro_batch=1")
    (event,) = events(run, "replanned")
    assert event.details["changed"] == {"threads": [1, 2], "micro_batch": [2, 1]}
    assert "(threads, micro_batch)" in event.message
    assert losses(run) == pytest.approx(losses(original("text")), rel=1e-6)


def test_an_override_that_says_what_is_changes_nothing() -> None:
    run = rewound("text", 9)
    before = run.recipe()
    go_on("resume", "mine", "plan.workers=2", "batch=6", "plan.precision=fp32")
    assert run.recipe() == before
    assert plan_of(run).number == 1
    assert weights(run) == weights(original("text"))


# --- refused


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=1", "other samples would be drawn"),
        ("batch=8", "other samples would be drawn"),
        ("data.context=8", "the saved place in the data"),
        ("model.layers=2", "of the model as it was"),
        ("optimizer.lr=1", "updated by another rule"),
        ("optimizer=sgd", "updated by another rule"),
        ("schedule=cosine", "updated by another rule"),
        ("averaging=null", "updated by another rule"),
        ("plan.precision=bf16", "it changes what is computed"),
        ("evaluation.patience=3", "which weights are kept"),
        ("freeze=['*']", "other parameters would be trained"),
    ],
)
def test_what_would_be_another_run_is_refused_and_a_branch_named(override: str, reason: str) -> None:
    run = rewound("text", 6)
    files = sorted(run.path.rglob("*"))
    said = go_on("resume", "mine", override, code=2)
    assert reason in said
    assert f"modelwright branch mine {override.partition('=')[0].partition('.use')[0]}" in said
    assert "command line" in said
    assert sorted(run.path.rglob("*")) == files


def test_all_that_is_refused_is_told_at_once() -> None:
    rewound("text", 6)
    said = go_on("resume", "mine", "seed=1", "batch=8", "plan.workers=1", "name=other", "plan.measure=true", code=2)
    for word in ("'seed'", "'batch'", "'name'", "'plan.measure'"):
        assert word in said
    assert "'plan.workers'" not in said


def test_workers_that_cannot_be_are_refused_before_anything_is_written() -> None:
    run = rewound("text", 6)
    said = go_on("resume", "mine", "--workers", "7", code=2)
    assert "a batch of 6 cannot be shared by 7 workers" in said
    assert plan_of(run).workers == 2 and not list(run.path.glob("plan-*.json"))


def test_what_the_model_cannot_bear_is_refused_before_anything_is_written() -> None:
    run = Run(trained("digits", "mine", status="stopped"))
    before = run.recipe()
    assert "no attention kernel 'explicit'" in go_on("resume", "mine", "plan.attention=explicit", code=2)
    assert "no repeated blocks" in go_on("resume", "mine", "plan.recompute=full", code=2)
    assert run.recipe() == before and not list(run.path.glob("plan-*.json"))


def test_a_recipe_that_was_changed_by_hand_is_refused() -> None:
    run = rewound("text", 6)
    text = run.recipe()
    assert "steps: 12" in text
    run.recipe_path.write_text(text.replace("steps: 12", "steps: 14"))
    for verb in (("resume", "mine"), ("resume", "mine", "plan.workers=1"), ("branch", "mine", "seed=1")):
        assert "the recipe of the run was changed by hand" in go_on(*verb, code=2)
    run.recipe_path.write_text("# only a remark\n" + text)
    go_on("resume", "mine")
    assert weights(run) == weights(original("text"))


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew() -> None:
    run = finished("text")
    for path in run.checkpoints.glob("step-*/state.json"):
        path.write_text("{")
    kept = weights(run)
    assert "no checkpoint of the run is whole" in go_on("resume", "mine", "budget.steps=15", code=2)
    assert run.status() == "finished" and weights(run) == kept
    change_json(run.path / "run.json", status="stopped")
    assert "no checkpoint of the run is whole" in go_on("resume", "mine", code=3)
    assert weights(run) == kept


def test_a_run_that_begins_anew_says_so() -> None:
    run = rewound("text", 0)
    go_on("resume", "mine")
    (event,) = events(run, "begun-anew")
    assert event.details["steps"] == STEPS and event.level == "warning"
    assert weights(run) == weights(original("text"))


# --- longer


def test_a_longer_run_is_that_run_in_every_bit_where_the_schedule_does_not_mind() -> None:
    write_recipe(FIELDS)
    go_on("train", "recipe.yaml", "budget.steps=6", "--name", "mine")
    run = Run(Path("runs/mine"))
    assert "is finished" in go_on("resume", "mine", code=2)
    go_on("resume", "mine", f"budget.steps={STEPS}")
    assert run.status() == "finished"
    assert weights(run) == weights(original("text"))
    assert losses(run) == losses(original("text"))
    (event,) = events(run, "extended")
    assert event.details["exact"] is True and event.details["total"] == STEPS and event.level == "info"
    assert (plan_of(run).steps, plan_of(run).number) == (STEPS, 2)


def test_a_finished_fall_is_not_raised_again_without_a_word() -> None:
    run = finished("cosine")
    said = go_on("resume", "mine", f"budget.steps={2 * STEPS}", code=2)
    assert "the learning rate would leap" in said
    assert "modelwright branch mine" in said
    assert run.status() == "finished" and plan_of(run).steps == STEPS


def test_in_the_middle_of_a_fall_the_new_course_is_told() -> None:
    run = rewound("cosine", 3)
    go_on("resume", "mine", "budget.steps=15")
    (event,) = events(run, "extended")
    assert event.level == "warning" and event.details["exact"] is False
    assert "from step 4 on its schedule sees 15" in event.message
    assert max(losses(run)) == 15


def test_a_budget_counts_from_the_beginning() -> None:
    rewound("text", 6)
    said = go_on("resume", "mine", "budget.steps=5", code=2)
    assert "6 steps are done, and this budget ends at 5" in said


def test_other_units_of_a_budget() -> None:
    run = rewound("text", 9)
    go_on("resume", "mine", "budget.samples=60")
    assert plan_of(run).steps == 10
    assert run.status() == "finished"
