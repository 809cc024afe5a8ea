"""SIGTERM as a spot machine sends it: whatever the run is doing, it saves at once, and loses nothing."""

from __future__ import annotations

from pathlib import Path

from tests.app.going_on import go_on, losses, weights
from tests.command import DIGITS, finish, started, until, write_recipe

from modelwright.base.phases import Phase
from modelwright.launch.pulse import read_beat
from modelwright.runs import Run
from modelwright.runs.metrics import read_metrics
from modelwright.runs.weights import list_checkpoints

RUN = Run(Path("runs/mine"))
PLAN = "{measure: false, workers: 1, threads: 1, micro_batch: 8, precision: fp32}"
FIELDS = DIGITS | {"schedule": "constant", "plan": PLAN}


def asked_in(phase: Phase, step: int) -> int:
    """Ask the run to leave in a ``phase`` of ``step`` or a later one; which step that was."""
    with started("train", "recipe.yaml", "--name", "mine") as process:
        until(lambda: _is_in(phase, step), f"{phase.word} of step {step}", process)
        beat = read_beat(RUN.logs, 0)
        process.terminate()
        outcome = finish(process)
    assert outcome.code == 143, outcome.err
    assert beat is not None
    return beat.step


def _is_in(phase: Phase, step: int) -> bool:
    beat = read_beat(RUN.logs, 0)
    return beat is not None and beat.phase == phase and beat.step >= step


def evaluations(run: Run) -> list[tuple[int, float]]:
    rows = read_metrics(run.metrics_path)
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == "evaluation"]


def test_in_the_middle_of_a_step_that_step_is_finished_and_saved() -> None:
    write_recipe(FIELDS | {"model": "tests.app.asked:SlowSteps", "batch": "8", "budget": "{steps: 100}"})
    step = asked_in(Phase.FORWARD, 3)
    assert [int(path.name[5:]) for path in list_checkpoints(RUN.checkpoints)] == [step]
    assert max(losses(RUN)) == step


def test_in_an_evaluation_it_does_not_wait_and_the_scores_are_made_up_for() -> None:
    """The whole evaluation takes 45 forwards of a quarter second; what counts its scores must not miss any."""
    fields = FIELDS | {
        "model": "tests.app.asked:SlowEvaluation",
        "budget": "{steps: 8}",
        "evaluation": "{every: 5, samples: 360, patience: 50}",
    }
    write_recipe(fields)
    step = asked_in(Phase.EVALUATE, 5)
    assert step == 5
    assert [int(path.name[5:]) for path in list_checkpoints(RUN.checkpoints)] == [5]
    assert evaluations(RUN) == []
    write_recipe(fields | {"model": "tests.app.brought:Linear"}, "quick.yaml")
    go_on("train", "quick.yaml", "--name", "whole")
    text = RUN.recipe_path.read_text()
    RUN.write_recipe(text.replace("tests.app.asked:SlowEvaluation", "tests.app.brought:Linear"))
    go_on("resume", "mine")
    whole = Run(Path("runs/whole"))
    assert evaluations(RUN) == evaluations(whole)
    assert [step for step, _ in evaluations(RUN)] == [5, 8]
    assert weights(RUN) == weights(whole)
