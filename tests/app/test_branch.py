"""``modelwright branch``: a new run from a kept checkpoint of another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tests.app.going_on import (
    STEPS,
    events,
    finished,
    go_on,
    losses,
    original,
    samples,
    tensors,
    weights,
)
from tests.command import invoke

from modelwright.runs import Run

FILES = ("model.safetensors", "optimizer.safetensors", "further.safetensors")


def branched(*arguments: str, kind: str = "text") -> Run:
    """A branch of ``mine`` after step 6."""
    if not Path("runs/mine").exists():
        finished(kind)
    go_on("branch", "mine", "--step", "6", "--name", "new", *arguments)
    return Run(Path("runs/new"))


def first(run: Run) -> Path:
    return run.checkpoints / "step-00000006"


def dropped(run: Run) -> str:
    return "; ".join(event.message for event in events(run, "branch-dropped"))


# --- as it was


def test_with_the_same_settings_it_is_its_parent_in_every_bit() -> None:
    run, parent = branched(kind="dropout"), Run(Path("runs/mine"))
    for name in FILES:
        ours, theirs = tensors(first(run) / name), tensors(first(parent) / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    state = [json.loads((first(each) / "state.json").read_text()) for each in (run, parent)]
    assert state[0] == state[1]
    assert weights(run) == weights(original("dropout"))
    assert list(losses(run)) == list(range(7, STEPS + 1))
    assert losses(run).items() <= losses(original("dropout")).items()
    assert dropped(run) == ""


def test_its_lineage_is_recorded_and_shown() -> None:
    run, parent = branched(), Run(Path("runs/mine"))
    record = run.record
    assert (record.parent, record.parent_step) == (parent.record.id, 6)
    assert record.parent_hash == hashlib.sha256((first(parent) / "manifest.json").read_bytes()).hexdigest()
    assert weights(parent) == weights(original("text"))  # the parent is as it was
    go_on("branch", "new", "--step", "9", "--name", "third")
    line = invoke("runs", "show", "third", "--json").json()["lineage"]
    assert [(each["name"], each["step"]) for each in line] == [("new", 9), ("mine", 6)]
    shown = invoke("runs", "show", "third").out
    assert "runs/new, checkpoint of step 9" in shown and "runs/mine, checkpoint of step 6" in shown
    invoke("runs", "remove", "new")
    (gone,) = invoke("runs", "show", "third", "--json").json()["lineage"]
    assert (gone["name"], gone["path"], gone["step"]) == ("new", None, 9)
    assert "new (no longer there), checkpoint of step 9" in invoke("runs", "show", "third").out


def test_it_needs_neither_the_source_of_the_data_nor_a_name() -> None:
    finished("text")
    assert not list(Path().glob("*.txt"))
    go_on("branch", "mine", f"budget.steps={STEPS + 2}")
    run = Run(Path(f"runs/mine-from-{STEPS}"))
    assert run.status() == "finished"
    assert list(losses(run)) == [STEPS + 1, STEPS + 2]
    assert invoke("generate", run.name, "the", "--length", "3").code == 0  # its tokenizer came with it


# --- with other settings


def test_another_rate_keeps_moments_and_samples() -> None:
    run = branched("optimizer.lr=1e-4")
    assert dropped(run) == ""
    moments, before = (tensors(first(each) / FILES[1]) for each in (run, Run(Path("runs/mine"))))
    assert all(torch.equal(moments[key], before[key]) for key in before)
    assert {step: losses(run)[step] for step in (7,)} == {7: losses(original("text"))[7]}
    assert losses(run)[9] != losses(original("text"))[9]
    assert samples(run).items() <= samples(original("text")).items()


def test_another_optimizer_begins_with_fresh_moments_and_says_so() -> None:
    run = branched("optimizer=sgd", "optimizer.lr=0.01")
    assert dropped(run).endswith("the optimizer's moments: they begin anew")
    assert tensors(first(run) / FILES[1]) == {}
    assert run.status() == "finished"


def test_other_averages_begin_from_the_weights_as_they_are() -> None:
    run = branched("averaging={use: ema, decay: 0.5}")
    assert dropped(run).endswith("averages: begins anew")
    model, further = tensors(first(run) / FILES[0]), tensors(first(run) / FILES[2])
    averages = {name.removeprefix("averages/average/"): each for name, each in further.items() if "/average/" in name}
    assert averages and all(torch.equal(average, model[name]) for name, average in averages.items())


def test_without_averages() -> None:
    run = branched("averaging=null")
    assert "averages" in dropped(run)
    assert not (first(run) / FILES[2]).exists()
    assert run.status() == "finished"


def test_another_batch_shares_out_what_is_left() -> None:
    run = branched("batch=4", "budget.samples=56")
    assert list(losses(run)) == [7, 8, 9, 10, 11]  # 36 samples are done; 20 are left
    assert json.loads((first(run) / "state.json").read_text())["batch"] == 4


def test_other_data_is_read_from_its_beginning() -> None:
    for number in range(6):
        Path(f"{number}.txt").write_text(f"another text {number}: " + "with other words in it, " * 9)
    run = branched("data.held_out=0.2")
    assert "the place in the data" in dropped(run)
    assert json.loads((first(run) / "state.json").read_text())["samples"] == 0
    assert run.status() == "finished"


def test_another_order_is_told() -> None:
    run = branched("seed=3")
    assert len(events(run, "branch-reordered")) == 1


def test_a_finished_fall_may_be_left_and_the_leap_is_told() -> None:
    finished("cosine")
    go_on("branch", "mine", "--name", "new", "schedule=constant", f"budget.steps={STEPS + 2}")
    (event,) = events(Run(Path("runs/new")), "branch-leap")
    assert "leaps" in event.message and event.level == "warning"


# --- refused


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--step", "7"), "keeps no checkpoint of step 7"),
        (("--step", "7"), "--step 3, 6, 9, 12"),
        ((), "nothing is left to train: step 12 of 12 is done"),
        (("--step", "6", "model.width=32"), "weights do not fit this model"),
        (("--step", "6", "start.run=runs/other"), "the weights are those of the checkpoint"),
        (("--step", "6", "name=other"), "give it with --name"),
        (("--step", "6", "plan.workers=7"), "cannot be shared by 7 workers"),
        (("--step", "6", "--name", "mine"), "the name 'mine' is taken"),
        (("--step", "6", "optimizer.lr=fast"), "optimizer.lr"),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(arguments: tuple[str, ...], reason: str) -> None:
    finished("text")
    assert reason in go_on("branch", "mine", *arguments, code=2)
    assert [path.name for path in Path("runs").iterdir() if path.is_dir()] == ["mine"]


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_without() -> None:
    parent = finished("text")
    file = parent.checkpoints / f"step-{STEPS:08d}" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert "differs from its hash" in go_on("branch", "mine", "--step", str(STEPS), code=2)
    go_on("branch", "mine", "--name", "new")
    assert Run(Path("runs/new")).record.parent_step == 9


def test_a_branch_that_has_lost_its_beginning_does_not_begin_with_other_weights() -> None:
    run = branched("budget.steps=7", "saving.keep=1")
    run.update(status="stopped")
    for path in run.checkpoints.glob("step-*"):
        (path / "model.safetensors").write_bytes(b"")
    said = go_on("resume", "new", code=2)
    assert "it would begin with other weights" in said and "--step 6" in said


def test_a_branch_can_be_resumed_and_branched_as_any_run() -> None:
    run = branched("optimizer.lr=1e-4", "budget.steps=9")
    go_on("resume", "new", f"budget.steps={STEPS}")
    assert list(losses(run)) == list(range(7, STEPS + 1))
