"""The command line: its words, its exit codes, and what signals do to it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import typer
from tests.command import (
    DIGITS,
    SLOW,
    change_json,
    finish,
    invoke,
    is_alive,
    make_home,
    run_command,
    started,
    started_anew,
    steps_in,
    trained,
    until,
    worker_pids,
    write_recipe,
)
from tests.forking import Forked

from modelwright import __version__
from modelwright.app.trained import open_trained
from modelwright.cli import app
from modelwright.cli.base import known_recipes, known_runs
from modelwright.models.attention import Attention
from modelwright.recipe import shipped
from modelwright.runs import Run, is_locked

TOTAL = 60
RUN = Path("runs/mine")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_home(tmp_path, monkeypatch)
    return tmp_path


def verbs(command: typer.core.TyperGroup | None = None, path: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Every command of the tree, groups among them."""
    command = command or typer.main.get_command(app)  # type: ignore[assignment]
    found = [tuple(path)]
    for name, child in getattr(command, "commands", {}).items():
        found += verbs(child, (*path, name))
    return found


# --- words


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_has_help(verb: tuple[str, ...]) -> None:
    outcome = invoke(*verb, "--help")
    assert outcome.code == 0
    assert "Usage:" in outcome.out
    assert not verb or "--help" in outcome.out


@pytest.mark.parametrize(
    "arguments", [("--help",), ("train", "--help"), ("runs", "--help"), ("--version",)], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    report = (
        "import atexit, sys; atexit.register(lambda: sys.stderr.write('HEAVY %s' % sorted(HEAVY & set(sys.modules))))"
    )
    heavy = "HEAVY = {'torch', 'numpy', 'yaml', 'modelwright.app.train', 'modelwright.recipe'}"
    outcome = run_command(*arguments, code=f"{heavy}\n{report}", anew=True)
    assert outcome.code == 0
    assert outcome.err.endswith("HEAVY []")


def test_the_version() -> None:
    assert invoke("--version").out.split() == ["modelwright", __version__]


def test_the_exit_codes_are_told() -> None:
    assert "0 done, 1 our fault, 2 your mistake, 3 the run failed, 130/143 stopped" in " ".join(
        invoke("--help").out.split()
    )


def test_completion_knows_runs_and_recipes() -> None:
    trained("digits", "digits-1")
    trained("digits", "other")
    write_recipe(DIGITS, "digits.yaml")
    assert known_runs("dig") == ["digits-1"]
    assert set(known_recipes("")) == {"digits.yaml", *shipped()}
    assert known_recipes("python-s") == ["python-stdlib"]


def test_the_shell_asks_for_completion() -> None:
    trained("digits", "digits-1")
    asked = {"_MODELWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "modelwright resume dig", "COMP_CWORD": "2"}
    code = f"import os, sys; sys.argv[0] = 'modelwright'; os.environ.update({asked})"
    outcome = run_command(code=code, anew=True)
    assert outcome.out.split() == ["digits-1"]


def test_usage_errors_are_the_users() -> None:
    assert invoke("trian").code == 2
    assert invoke("runs", "show").code == 2


def test_our_own_faults_keep_their_traceback() -> None:
    code = "import modelwright.app.runs\ndef bug(folder): raise KeyError('oops')\nmodelwright.app.runs.list_runs = bug"
    outcome = run_command("runs", "list", code=code)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "KeyError: 'oops'" in outcome.err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    trained("digits", "mine")
    outcome = run_command("runs", "list", "--json", code="import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)")
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


# --- verbs on runs that are there


def test_runs_list() -> None:
    assert "no runs here yet" in invoke("runs", "list").out
    assert invoke("runs", "list", "--json").json() == []
    trained("digits", "first")
    trained("text", "second", status="stopped")
    rows = invoke("runs", "list", "--json").json()
    assert [(row["name"], row["status"]) for row in sorted(rows, key=lambda row: row["name"])] == [
        ("first", "finished"),
        ("second", "stopped"),
    ]
    shown = invoke("runs", "list").out
    assert all(word in shown for word in ("first", "second", "finished", "stopped", "12", "train loss", "held-out"))


def test_no_name_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "a-run-with-a-name-" * 4
    trained("digits", name)
    assert name in run_command("runs", "list").out
    assert f"runs/{name}" in run_command("runs", "show", name).out


def test_runs_show() -> None:
    trained("digits", "mine")
    facts = invoke("runs", "show", "mine", "--json").json()
    assert facts["status"] == "finished"
    assert facts["summary"]["steps"] == 12
    assert facts["plan"]["workers"] == 1
    assert facts["summary"]["held_out"].keys() == {"loss", "accuracy"}
    shown = invoke("runs", "show", "mine").out
    assert "finished" in shown
    assert re.search(rf"^held_out.loss +{facts['summary']['held_out']['loss']:.6g}$", shown, re.MULTILINE)
    assert re.search(r"^peak_bytes +[\d.]+ MB$", shown, re.MULTILINE)
    assert invoke("runs", "show", "runs/mine", "--json").json() == facts


def test_runs_compare() -> None:
    trained("digits", "one")
    trained("text", "two")
    facts = invoke("runs", "compare", "one", "two", "--json").json()
    assert facts["runs"] == ["one", "two"]
    assert facts["recipe"]["batch"] == [32, 8]
    shown = invoke("runs", "compare", "one", "two").out
    assert "batch" in shown
    assert "next-token" in shown


def test_runs_remove() -> None:
    trained("digits", "mine")
    assert invoke("runs", "remove", "mine", "--json").json() == {"removed": "runs/mine"}
    assert not RUN.exists()
    trained("digits", "mine")
    assert invoke("runs", "remove", "mine").out.strip() == "removed runs/mine"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(
    ("answer", "options", "removed"),
    [("y\n", (), True), ("n\n", (), False), ("", ("-y",), True), ("", ("--force",), True)],
)
def test_on_a_terminal_a_removal_is_asked_for(answer: str, options: tuple[str, ...], removed: bool) -> None:
    trained("digits", "mine")
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer.encode())
        with closing(Forked("runs", "remove", "mine", *options, terminal=theirs)) as process:
            code = finish(process).code
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert code == 0, shown
    assert ("Remove runs/mine" in shown) == bool(answer)
    assert RUN.exists() != removed


def test_runs_remove_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("digits", "mine").absolute()
    monkeypatch.chdir(run)
    assert invoke("runs", "remove", ".", "--json").json() == {"removed": str(run)}
    assert not run.exists()


def test_runs_reindex() -> None:
    trained("digits", "mine")
    Path("runs/index.sqlite").write_bytes(b"nonsense")
    assert invoke("runs", "reindex", "--json").json() == {"runs": 1}
    assert invoke("runs", "reindex").out.strip() == "1 runs"


def test_report() -> None:
    (trained("digits", "mine") / "report.html").unlink()
    assert invoke("report", "mine", "--json").json() == {"report": "runs/mine/report.html"}
    assert "</html>" in (RUN / "report.html").read_text()
    assert invoke("report", "mine").out.strip() == "runs/mine/report.html"


def test_recipe_show() -> None:
    write_recipe(DIGITS)
    rows = {row["path"]: row for row in invoke("recipe", "show", "recipe.yaml", "batch=64", "--json").json()}
    assert rows["batch"] == {"path": "batch", "value": 64, "origin": "command line"}
    assert rows["model.hidden"]["origin"] == "recipe.yaml:1"
    assert rows["seed"] == {"path": "seed", "value": 0, "origin": "default"}
    assert "command line" in invoke("recipe", "show", "recipe.yaml", "batch=64").out


def test_recipe_schema() -> None:
    schema = invoke("recipe", "schema").json()
    assert invoke("recipe", "schema", "--json").json() == schema
    assert schema["properties"].keys() >= {"model", "data", "budget"}
    line = invoke("recipe", "schema", "--output", "recipe.schema.json").out
    assert "recipe.schema.json" in line
    assert json.loads(Path("recipe.schema.json").read_text()) == schema


def test_recipe_list() -> None:
    rows = invoke("recipe", "list", "--json").json()
    assert [row["name"] for row in rows] == sorted(shipped())
    assert {"name": "python-stdlib", "what": "A language model of this machine's own Python standard library."} in rows
    told = " ".join(invoke("recipe", "list").out.split())
    assert told == " ".join(["recipe what", *(f"{row['name']} {row['what']}" for row in rows)])


def test_evaluate() -> None:
    trained("digits", "mine")
    held_out = json.loads((RUN / "run.json").read_text())["summary"]["held_out"]
    scores = invoke("evaluate", "mine", "--json").json()
    recorded = Path(scores.pop("run"))
    assert scores == pytest.approx(held_out, rel=1e-6)
    assert json.loads((recorded / "run.json").read_text())["verb"] == "evaluate"
    assert f"{held_out['accuracy']:.4f}" in invoke("evaluate", "mine").out


def test_evaluate_beside_compressors() -> None:
    trained("text", "mine")
    scores = invoke("evaluate", "mine", "--json").json()
    assert scores["yardsticks"].keys() == {"byte frequency", "gzip -9", "lzma -9e"}


def test_evaluate_a_run_that_stopped_from_its_checkpoint() -> None:
    (trained("digits", "mine", status="failed") / "artifacts" / "model.safetensors").unlink()
    held_out = json.loads((RUN / "run.json").read_text())["summary"]["held_out"]
    assert invoke("evaluate", "mine", "--json").json()["loss"] == pytest.approx(held_out["loss"], rel=1e-6)


def test_an_evaluation_is_of_the_step_of_its_weights() -> None:
    trained("digits", "mine", status="failed", summary={})
    recorded = Path(invoke("evaluate", "mine", "--json").json()["run"])
    (row,) = map(json.loads, (recorded / "metrics.jsonl").read_text().splitlines())
    assert row["step"] == 12


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_a_trained_run_is_opened_with_the_kernel_of_its_plan(kernel: str) -> None:
    change_json(trained("text", "mine") / "plan.json", attention=kernel)
    training, step = open_trained(Run(RUN))
    assert {module.kernel for module in training.model.modules() if isinstance(module, Attention)} == {kernel}
    assert step == 12


def test_generate() -> None:
    trained("text", "mine")
    options = ("--length", "30", "--seed", "3")
    shown = invoke("generate", "mine", "--prompt", "the text", *options).out
    assert shown.startswith("the text")
    facts = invoke("generate", "mine", "--prompt", "the text", *options, "--json").json()
    assert facts["prompt"] + facts["text"] == shown.removesuffix("\n")
    assert invoke("generate", "mine", "--prompt", "the text", "--length", "30", "--seed", "4").out != shown


def test_a_prompt_that_is_no_text() -> None:
    trained("text", "mine")
    outcome = run_command("generate", "mine", "--length", "3", "--prompt", os.fsdecode(b"\xff\xfe"))
    assert outcome.code == 0, outcome.err


def test_doctor() -> None:
    outcome = invoke("doctor", "--json")
    findings = {finding["name"]: finding for finding in outcome.json()}
    assert outcome.code == (2 if any(finding["state"] == "error" for finding in findings.values()) else 0)
    assert findings["two workers"]["state"] == "ok"


def test_train_for_machines() -> None:
    write_recipe(SLOW)
    outcome = invoke("train", "recipe.yaml", "budget.steps=3", "--name", "mine", "--json")
    assert outcome.code == 0, outcome.err
    facts = outcome.json()  # although the model's constructor prints
    assert (facts["name"], facts["status"], facts["summary"]["steps"]) == ("mine", "finished", 3)
    assert "plan" in outcome.err


# --- signals


@pytest.fixture
def slow_recipe() -> None:
    write_recipe(SLOW | {"budget": f"{{steps: {TOTAL}}}"})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("slow_recipe")
def test_a_signal_stops_and_saves(number: signal.Signals, code: int) -> None:
    begin = started_anew if number == signal.SIGINT else started
    with begin("train", "recipe.yaml", "--name", "mine") as process:
        until(lambda: steps_in(RUN), "the first steps", process)
        os.killpg(process.pid, number)  # as a terminal does: all of the group, which the workers are not in
        outcome = finish(process)
    assert outcome.code == code, outcome.err
    done = steps_in(RUN)[-1]
    assert 0 < done < TOTAL
    assert f"stopped by {number.name} after step {done} of {TOTAL}; everything is saved" in outcome.err
    assert "modelwright resume runs/mine" in outcome.err
    assert invoke("runs", "show", "mine", "--json").json()["status"] == "stopped"
    assert not any(is_alive(pid) for pid in worker_pids(RUN))
    if number == signal.SIGINT:  # what was saved is the same
        check_resumed()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("slow_recipe")
def test_a_second_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    with started("train", "recipe.yaml", "model.seconds=30", "--name", "mine") as process:
        until(lambda: len(worker_pids(RUN)) == 2, "the workers", process)
        until(lambda: (RUN / "env.json").exists(), "the training", process)
        os.killpg(process.pid, number)
        until(lambda: "stopping" in process.said()[0], "the word that it stops", process)
        os.killpg(process.pid, number)
        outcome = finish(process)
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    assert "modelwright resume runs/mine" in outcome.err
    until(lambda: not any(is_alive(pid) for pid in worker_pids(RUN)), "the end of the workers")


@pytest.mark.usefixtures("slow_recipe")
def test_a_run_is_worked_on_by_one_command_at_a_time() -> None:
    with started("train", "recipe.yaml", "--name", "mine") as process:
        until(lambda: is_locked(RUN), "the run", process)
        for arguments in (("resume", "mine"), ("runs", "remove", "mine")):
            outcome = invoke(*arguments)
            assert outcome.code == 2
            assert "the run 'mine' is" in outcome.complaint[0]
        until(lambda: steps_in(RUN), "the first steps", process)
        assert invoke("resume", "mine").code == 2
        process.terminate()
        finish(process)
    assert not is_locked(RUN)
    with started("resume", "mine") as process:
        until(lambda: is_locked(RUN), "the run", process)
        assert "still at work in another process" in invoke("resume", "mine").complaint[0]  # stopped, it seems
        assert finish(process).code == 0
    assert steps_in(RUN) == list(range(1, TOTAL + 1))


@pytest.mark.usefixtures("slow_recipe")
def test_a_killed_worker_is_named() -> None:
    with started("train", "recipe.yaml", "saving.every=5", "--name", "mine") as process:
        until(lambda: len(steps_in(RUN)) > 6, "some steps", process)
        os.kill(worker_pids(RUN)[1], signal.SIGKILL)
        outcome = finish(process)
    assert outcome.code == 3, outcome.err
    assert "rank 1 was killed by SIGKILL" in outcome.err
    assert "  | a slow model is made" in outcome.err
    assert "rank-1.txt" in outcome.err
    assert "modelwright resume runs/mine" in outcome.err
    assert "Traceback" not in outcome.err
    facts = invoke("runs", "show", "mine", "--json").json()
    assert facts["status"] == "failed"
    assert "rank 1 was killed by SIGKILL" in facts["error"]["what"]
    assert not any(is_alive(pid) for pid in worker_pids(RUN))
    check_resumed()


@pytest.mark.usefixtures("slow_recipe")
def test_a_killed_command_leaves_no_orphans() -> None:
    with started("train", "recipe.yaml", "saving.every=5", "--name", "mine") as process:
        until(lambda: len(steps_in(RUN)) > 6, "some steps", process)
        process.kill()
        until(lambda: not any(is_alive(pid) for pid in worker_pids(RUN)), "the end of the workers")
    assert len(worker_pids(RUN)) == 2
    assert invoke("runs", "show", "mine", "--json").json()["status"] == "interrupted"
    assert [row["status"] for row in invoke("runs", "list", "--json").json()] == ["interrupted"]
    check_resumed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_leaves_nothing(number: signal.Signals) -> None:
    write_recipe(DIGITS | {"data": "tests.app.brought:endless"})
    with started("train", "recipe.yaml", "--name", "mine") as process:
        until((RUN / "recipe.yaml").exists, "the run", process)
        until(Path("reading").exists, "the data", process)
        os.killpg(process.pid, number)
        outcome = finish(process)
    assert outcome.code == 128 + number
    assert "Traceback" not in outcome.err
    assert list(Path("runs").iterdir()) == []


def check_resumed() -> None:
    """It goes on to the end, and no step is told twice or left out."""
    outcome = invoke("resume", "mine")
    assert outcome.code == 0, outcome.err
    assert steps_in(RUN) == list(range(1, TOTAL + 1))
    assert invoke("runs", "show", "mine", "--json").json()["status"] == "finished"
