"""Training from plain Python."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.command import TEXT, invoke, steps_in, write_recipe
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional

import modelwright as mw
from modelwright.app.api import parse_budget
from modelwright.base.world import Mesh
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.byte import Byte
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.optim.rules import GroupRule
from modelwright.optim.schedules.constant import Constant
from modelwright.planning.request import PlanRequest
from modelwright.runs import Run, is_locked, locked, read_events
from modelwright.runs.weights import newest_weights
from modelwright.training.updating import Updating
from modelwright.training.watching import Watch

SAMPLES = 64


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def line() -> tuple[Tensor, Tensor]:
    """Inputs and targets of a linear law."""
    inputs = torch.linspace(-1, 1, SAMPLES * 2).view(SAMPLES, 2)
    return inputs, inputs @ torch.tensor([[2.0], [-1.0]]) + 0.5


def squared(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["inputs"]) - batch["targets"]).square().mean(dim=1)


class Pairs:
    """A data set as torch's tutorials write it."""

    def __init__(self) -> None:
        self.inputs, self.targets = line()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def fitted(data: Any, **options: Any) -> mw.Result:
    torch.manual_seed(0)
    options = {"objective": squared, "budget": "30 steps", "batch": 16, "quiet": True} | options
    return mw.train(nn.Linear(2, 1), data, **options)


def test_tensors_and_a_function() -> None:
    model = nn.Linear(2, 1)
    optimizer = AdamW(lr=0.05)
    result = mw.train(
        model, line(), objective=squared, optimizer=optimizer, budget="200 steps", held_out=line(), quiet=True
    )
    assert result.model is model
    assert result.scores["loss"] < 1e-2
    assert result.summary["status"] == "finished"
    assert result.run.status() == "finished"
    saved = load_file(result.run.artifacts / "model.safetensors")
    assert torch.equal(saved["weight"], model.weight)
    assert steps_in(result.run.path) == list(range(1, 201))
    assert result.run.report_path.exists()


def test_a_data_set_of_pairs_is_the_same_as_its_tensors() -> None:
    first, second = fitted(Pairs()), fitted(line())
    assert torch.equal(first.model.weight, second.model.weight)
    assert not torch.equal(first.model.weight, fitted(line(), seed=1).model.weight)
    assert first.scores == {}


def test_a_language_model_of_text_files() -> None:
    write_recipe(TEXT)
    data = TextFiles(files=("*.txt",), context=16, held_out=0.3, tokenizer=Byte())
    splits = data.open(data.prepare(mw.data_cache()))
    model = GPT(vocabulary=splits.facts["vocabulary"], layers=1, width=16, heads=2).build()
    result = mw.train(model, splits, objective=NextToken(), budget="2k tokens", batch=8, quiet=True)
    assert result.summary["steps"] == 16  # of 8 samples of 16 tokens
    assert result.scores.keys() == {"loss", "perplexity"}
    assert result.scores["loss"] < 5.55  # nats of a uniform guess


def test_runs_have_the_name_or_path_they_are_given() -> None:
    assert fitted(line(), run="mine").run.path.resolve() == Path("runs/mine").resolve()
    assert fitted(line(), run="elsewhere/mine").run.path.resolve() == Path("elsewhere/mine").resolve()
    assert fitted(line()).run.name.startswith("train-")


def test_a_finished_run_keeps_its_name() -> None:
    fitted(line(), run="mine")
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken") as caught:
        fitted(line(), run="mine")
    assert caught.value.remedy == "choose another name, or remove it: modelwright runs remove mine"
    break_off("other")
    with pytest.raises(mw.ModelwrightError, match="the name 'other' is taken") as caught:
        Run.create(Path("runs"), "other", "train")
    assert caught.value.remedy == "choose another name, or go on with it: modelwright resume other"


class Interrupted(Exception):
    pass


def break_off(run: str) -> None:
    """Fail in the twentieth step."""
    calls = 0

    def breaking(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise Interrupted
        return squared(model, batch)

    with pytest.raises(mw.ModelwrightError, match="Interrupted"):
        fitted(line(), objective=breaking, run=run, saving=mw.Saving(every=5))


def test_a_run_that_broke_off_goes_on() -> None:
    whole = fitted(line(), run="whole")
    break_off("mine")
    assert Run(Path("runs/mine")).status() == "failed"
    resumed = fitted(line(), run="mine")
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert steps_in(Path("runs/mine")) == list(range(1, 31))


@pytest.mark.parametrize("changed", [{"budget": "31 steps"}, {"batch": 5}, {"seed": 1}])
def test_a_run_does_not_go_on_as_another(changed: dict[str, Any]) -> None:
    break_off("mine")
    before = Run(Path("runs/mine")).record.summary
    with pytest.raises(mw.ModelwrightError, match=r"planned for 30 steps|the saved run has") as caught:
        fitted(line(), run="mine", **changed)
    assert "another name" in caught.value.remedy
    assert Run(Path("runs/mine")).record.summary == before


def test_a_run_does_not_go_on_in_another_precision() -> None:
    break_off("mine")
    with pytest.raises(mw.ModelwrightError, match="planned for precision fp32, not bf16") as caught:
        fitted(line(), run="mine", precision="bf16")
    assert caught.value.where == "precision"
    assert "fp32" in caught.value.remedy
    assert Run(Path("runs/mine")).status() == "failed"


def test_a_run_goes_on_by_its_own_plan_and_says_so() -> None:
    break_off("mine")
    fitted(line(), run="mine", plan=PlanRequest(micro_batch=3, offload="moments"))
    (told,) = [event for event in read_events(Run(Path("runs/mine")).events_path) if event.kind == "plan-kept"]
    assert "micro_batch 16 (not 3)" in told.message
    assert "offload none (not moments)" in told.message


def test_the_precision_of_a_plan_is_that_of_the_training() -> None:
    result = fitted(line(), plan=PlanRequest(precision="bf16"))
    plan = result.run.plan()
    assert plan is not None
    assert plan.precision == "bf16"
    with pytest.raises(mw.ModelwrightError, match="precision is fp32, and that of the plan is bf16"):
        fitted(line(), plan=PlanRequest(precision="bf16"), precision="fp32")


@pytest.mark.parametrize("other", [{"optimizer": AdamW()}, {"groups": [GroupRule(names=("bias",), lr=0.0)]}])
def test_what_several_updates_would_not_use_is_refused(other: dict[str, Any]) -> None:
    updates = {"all": Updating(optimizer=AdamW(), schedule=Constant())}
    with pytest.raises(mw.ModelwrightError, match="would not be used"):
        fitted(line(), updates=updates, **other)
    fitted(line(), updates=updates)


def test_a_run_is_trained_by_one_at_a_time() -> None:
    break_off("mine")
    before = Path("runs/mine/run.json").read_bytes()
    with locked(Path("runs/mine")), pytest.raises(mw.ModelwrightError, match="'mine' is still at work"):
        fitted(line(), run="mine")
    assert Path("runs/mine/run.json").read_bytes() == before
    held = []

    def looking(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        held.append(is_locked(Path("runs/mine")))
        return squared(model, batch)

    fitted(line(), objective=looking, run="mine")
    assert all(held) and held
    assert not is_locked(Path("runs/mine"))


def test_a_run_that_broke_off_goes_on_in_another_world(home: Path) -> None:
    break_off("mine")
    run_world("tests.app.test_api:train_on_rank", 2, folder=str(home))
    run = Run(Path("runs/mine"))
    plan = run.plan()
    assert plan is not None
    assert (plan.workers, plan.layout, plan.micro_batch, plan.number, plan.steps) == (2, {"replicate": 2}, 8, 2, 30)
    assert "replanned" in [event.kind for event in read_events(run.events_path)]
    assert run.status() == "finished"
    assert steps_in(run.path) == list(range(1, 31))


def stopped_at(step: int, run: str, **options: Any) -> mw.Result:
    """Train, and be asked to stop in that step, by a signal."""

    def stopping(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        stopping.calls += 1  # type: ignore[attr-defined]
        if stopping.calls == step:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        return squared(model, batch)

    stopping.calls = 0  # type: ignore[attr-defined]
    # Counting the model's operations would call the objective once more.
    return fitted(line(), objective=stopping, run=run, watch=Watch(utilisation=False), **options)


def test_the_newest_weights_are_those_of_the_latest_step() -> None:
    saving = mw.Saving(every=5)
    assert stopped_at(12, "mine", saving=saving).summary["steps"] == 12
    run = Run(Path("runs/mine"))
    assert newest_weights(run) == (run.artifacts / "model.safetensors", 12)

    def cut_short(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        assert not (run.artifacts / "model.safetensors").exists()
        if (run.checkpoints / "step-00000020").exists():
            raise KeyboardInterrupt  # as by a second signal
        return squared(model, batch)

    with pytest.raises(KeyboardInterrupt):
        fitted(line(), objective=cut_short, run="mine", saving=saving)
    assert run.status() == "stopped"
    path, step = newest_weights(run)  # the next one may have been on its way already
    assert step in (20, 25)
    assert path == run.checkpoints / f"step-{step:08d}" / "model.safetensors"
    fitted(line(), run="mine", saving=saving)
    assert newest_weights(run) == (run.artifacts / "model.safetensors", 30)


def test_weights_left_by_an_earlier_sitting_do_not_count() -> None:
    """As a version that did not remove them left them."""
    stopped_at(12, "mine")
    run = Run(Path("runs/mine"))
    shutil.copytree(run.checkpoints / "step-00000012", run.checkpoints / "step-00000020")
    assert newest_weights(run) == (run.checkpoints / "step-00000020" / "model.safetensors", 20)
    (run.checkpoints / "step-00000020" / "model.safetensors").write_bytes(b"damaged")
    assert newest_weights(run) == (run.artifacts / "model.safetensors", 12)


def test_a_run_that_only_lacks_its_scores_has_a_whole_summary() -> None:
    whole = fitted(line(), run="whole", held_out=line())

    class Broken(Pairs):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            raise Interrupted

    with pytest.raises(mw.ModelwrightError):
        fitted(line(), run="mine", held_out=Broken())
    assert steps_in(Path("runs/mine")) == list(range(1, 31))
    resumed = fitted(line(), run="mine", held_out=line())
    assert resumed.summary.keys() == whole.summary.keys()
    same = ("parameters", "steps", "samples", "loss", "held_out", "status")
    assert {name: resumed.summary[name] for name in same} == {name: whole.summary[name] for name in same}
    assert resumed.summary["seconds"] > 0


def test_evaluations_of_nothing_are_told() -> None:
    def kinds(result: mw.Result) -> list[str]:
        return [event.kind for event in read_events(result.run.events_path)]

    every = mw.Evaluation(every=10)
    assert "evaluation-skipped" in kinds(fitted(line(), evaluation=every))
    assert "evaluation-skipped" not in kinds(fitted(line(), evaluation=every, held_out=line()))
    assert "evaluation-skipped" not in kinds(fitted(line()))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500 steps", mw.Budget(steps=500)),
        ("1 step", mw.Budget(steps=1)),
        ("3 epochs", mw.Budget(epochs=3.0)),
        ("0.5 epoch", mw.Budget(epochs=0.5)),
        ("5M tokens", mw.Budget(tokens=5_000_000)),
        (" 20k  samples ", mw.Budget(samples=20_000)),
        ("90s", mw.Budget(time=90.0)),
        ("1h30m", mw.Budget(time=5400.0)),
        ("10 min", mw.Budget(time=600.0)),
    ],
)
def test_budgets_in_words(text: str, budget: mw.Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "three epochs", "steps", "500 stops", "-5 steps", "0 steps", "ten steps"])
def test_words_that_are_no_budget(text: str) -> None:
    with pytest.raises(mw.ModelwrightError, match=f"'{text}' is not a budget") as caught:
        parse_budget(text)
    assert "'500 steps'" in caught.value.remedy


def test_a_budget_of_time_is_measured() -> None:
    result = fitted(line(), budget="100ms", run="mine")
    plan = Run(Path("runs/mine")).plan()
    assert plan is not None
    assert plan.prediction is not None
    assert plan.steps == max(1, round(0.1 / plan.prediction.step_seconds)) == result.summary["steps"]


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    fitted(line())
    assert capfd.readouterr() == ("", "")


def test_otherwise_scores_are_said(capfd: pytest.CaptureFixture[str]) -> None:
    fitted(line(), quiet=False, held_out=line())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert re.search(r"step 30: held.out:? loss", captured.err)


def test_a_mistake_before_the_first_step_leaves_no_run() -> None:
    with pytest.raises(mw.ModelwrightError, match="no precision named 'fp7'"):
        fitted(line(), precision="fp7")
    assert list(Path("runs").iterdir()) == []
    with pytest.raises(mw.ModelwrightError, match="training data is empty"):
        fitted((torch.zeros(0, 2), torch.zeros(0, 1)))
    assert list(Path("runs").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "what", "remedy"),
    [
        ("budget", 5, "not 5", "'500 steps'"),
        ("budget", None, "not None", "'500 steps'"),
        ("optimizer", torch.optim.AdamW, "the class torch.optim.adamw.AdamW is no", "modelwright.optim.adamw.AdamW("),
        ("optimizer", torch.optim.SGD(nn.Linear(1, 1).parameters()), "an instance of torch.optim.sgd.SGD", "AdamW("),
        ("optimizer", AdamW, "the class modelwright.optim.adamw.AdamW", "AdamW("),
        ("schedule", torch.optim.lr_scheduler.LinearLR, "the class torch", "Cosine("),
        (
            "objective",
            nn.CrossEntropyLoss(),
            "torch.nn.modules.loss.CrossEntropyLoss is no",
            "(model, batch) -> losses",
        ),
        ("objective", nn.CrossEntropyLoss, "the class torch", "(model, batch) -> losses"),
        ("objective", functional.cross_entropy, "torch.nn.functional.cross_entropy", "(model, batch) -> losses"),
        ("objective", NextToken, "the class modelwright", "(model, batch) -> losses"),
        ("objective", "next-token", "an instance of builtins.str", "(model, batch) -> losses"),
        ("batch", 0, "at least 1, not 0", "batch=32"),
        ("batch", -4, "not -4", "batch=32"),
        ("batch", 2.5, "not 2.5", "batch=32"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_made(option: str, value: Any, what: str, remedy: str) -> None:
    with pytest.raises(mw.ModelwrightError) as caught:
        fitted(line(), **{option: value})
    assert caught.value.where == option
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert not Path("runs").exists()


def test_a_module_may_be_an_objective() -> None:
    """One of the user's own, for example with a teacher inside; the control of the losses of torch.nn above."""

    class Squared(nn.Module):
        def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            return squared(model, batch)

    assert torch.equal(fitted(line(), objective=Squared()).model.weight, fitted(line()).model.weight)


@pytest.mark.parametrize("verb", ["evaluate", "generate"])
def test_the_command_line_tells_where_a_run_from_python_is_used(verb: str) -> None:
    fitted(line(), run="mine")
    outcome = invoke(verb, "mine")
    assert outcome.code == 2
    assert "the run 'mine' was made from Python" in outcome.err
    assert "modelwright.load_weights(model, 'runs/mine/artifacts/model.safetensors')" in " ".join(outcome.err.split())


def test_the_command_line_tells_how_a_run_from_python_goes_on() -> None:
    break_off("mine")
    before = Path("runs/mine/run.json").read_bytes()
    outcome = invoke("resume", "mine")
    assert outcome.code == 2
    assert "the run 'mine' was made from Python" in outcome.err
    assert "call modelwright.train again with run='runs/mine'" in " ".join(outcome.err.split())
    assert Path("runs/mine/run.json").read_bytes() == before
    assert fitted(line(), run="runs/mine").summary["steps"] == 30


def test_what_the_remedies_say_works() -> None:
    trained = fitted(line(), run="mine")
    model = nn.Linear(2, 1)
    mw.load_weights(model, "runs/mine/artifacts/model.safetensors")
    assert torch.equal(model.weight, trained.model.weight)


def test_a_model_that_fails_marks_its_run() -> None:
    with pytest.raises(mw.ModelwrightError, match="the model failed on a batch") as caught:
        mw.train(nn.Linear(3, 1), line(), objective=squared, budget="5 steps", run="mine", quiet=True)
    assert "test_api.py" in caught.value.where
    record = json.loads(Path("runs/mine/run.json").read_text())
    assert record["status"] == "failed"


def train_on_rank(mesh: Mesh, folder: str) -> dict[str, Any]:
    result = fitted(line(), run=f"{folder}/runs/mine", held_out=line())
    return {
        "weight": result.model.weight.tolist(),
        "run": str(result.run.path),
        "loss": result.scores["loss"],
        "workers": result.run.plan().workers,  # type: ignore[union-attr]
    }


def test_in_a_world_of_two_ranks(home: Path) -> None:
    first, second = run_world("tests.app.test_api:train_on_rank", 2, folder=str(home))
    assert first == second
    assert first["workers"] == 2
    assert steps_in(Path("runs/mine")) == list(range(1, 31))
    alone = fitted(line(), held_out=line())
    torch.testing.assert_close(torch.tensor(first["weight"]), alone.model.weight.detach(), rtol=1e-6, atol=1e-7)
    assert first["loss"] == pytest.approx(alone.scores["loss"], rel=1e-5)


def mistaken_on_rank(mesh: Mesh, folder: str) -> None:
    fitted(line(), run=f"{folder}/runs/mine")


def test_a_mistake_in_a_world_is_told_once(home: Path) -> None:
    fitted(line(), run="mine")
    with pytest.raises(mw.ModelwrightError, match="the name 'mine' is taken"):
        run_world("tests.app.test_api:mistaken_on_rank", 2, folder=str(home))
