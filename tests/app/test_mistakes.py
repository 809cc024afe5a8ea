"""What a user can do wrong: each mistake is told with its place and a remedy, before anything is spent on it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.command import DIGITS, TEXT, Outcome, change_json, invoke, run_command, trained, write_recipe, yaml

from modelwright.runs.process import this_process

LONGEST = 12  # Lines.


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A command, and what must be in its complaint.

    Attributes:
        what, where, remedy: patterns of the three parts of the message.
        recipe: fields that differ from those of a sound recipe.
        base: the sound recipe.
        arguments: further arguments of ``train``.
        command: the whole command, where it is another one.
        prepare: makes the situation.
        code: the exit code.
        runs: names of the runs that are there afterwards.
    """

    what: str
    where: str
    remedy: str
    recipe: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=lambda: DIGITS)
    arguments: Sequence[str] = ()
    command: Sequence[str] = ()
    prepare: Callable[[], object] = lambda: None
    code: int = 2
    runs: Sequence[str] = ()


def touch(path: str, content: str = "") -> Callable[[], object]:
    return lambda: Path(path).write_text(content)


def unequal_arrays() -> None:
    np.save("inputs.npy", np.zeros((5, 3), dtype=np.float32))
    np.save("targets.npy", np.zeros(4, dtype=np.int64))


def pickled_array() -> None:
    np.save("inputs.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.save("targets.npy", np.zeros(2, dtype=np.int64))


def unwritable_folder() -> str:
    """A folder in which nothing can be made, for root neither."""
    if os.geteuid() == 0:
        return "/proc/runs"
    Path("locked").mkdir(mode=0o555)
    return "locked/runs"


RECIPES = {
    "wrong key": Mistake(
        recipe={"bacth": "32"},
        what="no field 'bacth'",
        where=r"recipe\.yaml:8 \(bacth\)",
        remedy="did you mean 'batch'",
    ),
    "wrong key inside": Mistake(
        recipe={"model": "{use: mlp, hiden: [16]}"},
        what="no field 'hiden'",
        where=r"recipe\.yaml:1 \(model\.hiden\)",
        remedy="did you mean 'hidden'",
    ),
    "wrong type": Mistake(
        recipe={"model": "{use: mlp, dropout: much}"},
        what="'dropout' must be a number, not the text 'much'",
        where=r"recipe\.yaml:1 \(model\.dropout\)",
        remedy="dropout after each activation",
    ),
    "wrong value": Mistake(
        recipe={"optimizer": "{use: adamw, lr: -1}"},
        what="lr",
        where=r"recipe\.yaml:4 \(optimizer\.lr\)",
        remedy="learning rate",
    ),
    "unknown name": Mistake(
        recipe={"optimizer": "adamv"},
        what="no optimizer named 'adamv'",
        where=r"recipe\.yaml:4 \(optimizer",
        remedy="did you mean 'adam'.* Your own: use: package.module:Class",
    ),
    "not YAML": Mistake(recipe={"clip": "[1"}, what="not YAML", where=r"recipe\.yaml:\d", remedy="close the bracket"),
    "no recipe": Mistake(
        command=["train", "recpie.yaml"], what="no recipe 'recpie.yaml'", where="recpie.yaml", remedy="'recipe.yaml'"
    ),
    "override without value": Mistake(
        arguments=["optimizer.lr"],
        what="not an override",
        where=r"command line \(optimizer\.lr\)",
        remedy="optimizer.lr=3e-4",
    ),
    "override of nothing": Mistake(
        arguments=["optimizer.larning_rate=1"],
        what="no field 'larning_rate'",
        where=r"command line \(optimizer\.larning_rate=1\)",
        remedy="known: |did you mean",
    ),
    "workers that may not be": Mistake(
        arguments=["launch={min: 1, max: 1}", "plan.workers=2"],
        what="launch.max allows 1 workers, but the plan has 2",
        where="launch=",
        remedy="raise it to 2 or more",
    ),
    "rejoin of a run that does not shrink": Mistake(
        arguments=["launch.rejoin=5s"], what="needs 'min' too", where=r"launch\.rejoin", remedy="min: 1"
    ),
    "a store that cannot be written to": Mistake(
        arguments=["saving.to=/proc/nowhere"],
        what="the store does not work",
        where=r"saving\.to: /proc/nowhere",
        remedy="network|permissions",
    ),
    "zero budget": Mistake(
        recipe={"budget": "{steps: 0}"},
        what="0 steps trains nothing",
        where=r"recipe\.yaml:6 \(budget\.steps\)",
        remedy="more than zero",
    ),
    "two budgets": Mistake(
        recipe={"budget": "{steps: 5, time: 9s}"},
        what="exactly one of .* has steps and time",
        where=r"recipe\.yaml:6 \(budget\)",
        remedy="keep one",
    ),
    "token budget without tokens": Mistake(
        recipe={"budget": "{tokens: 10k}"},
        what="needs data made of tokens",
        where=r"recipe\.yaml:6 \(budget\.tokens\)",
        remedy="steps, samples, epochs or time",
    ),
    "batch too small to share": Mistake(
        recipe={"batch": "1"},
        arguments=["plan.workers=2"],
        what="a batch of 1 cannot be shared by 2 workers",
        where=r"recipe\.yaml:5 \(batch\)",
        remedy="raise batch to at least 2",
    ),
    "far too many workers": Mistake(
        recipe={"batch": "1000000"},
        arguments=["plan.workers=99999"],
        what="99999 workers are too many",
        where=r"command line \(plan\.workers=99999\)",
        remedy="at most",
    ),
    "attention kernel of a model without": Mistake(
        arguments=["plan.attention=explicit"],
        what="no attention kernel 'explicit'",
        where=r"command line \(plan\.attention=explicit\)",
        remedy="leave plan.attention out",
    ),
    "unknown metric": Mistake(
        arguments=["evaluation.metrics=[acuracy]"],
        what="no metric named 'acuracy'",
        where="command line",
        remedy="did you mean 'accuracy'",
    ),
    "metric that does not fit": Mistake(
        arguments=["evaluation.metrics=[bits-per-byte]"],
        what="bits-per-byte needs 'bytes'",
        where=r"command line \(evaluation\.metrics",
        remedy=".",
    ),
}

DATA = {
    "missing array": Mistake(
        recipe={"data": "{use: npy, inputs: inputs.npy, targets: targets.npy}"},
        what="array of inputs cannot be read: No such file",
        where=r"/inputs\.npy$",
        remedy="numpy.save",
    ),
    "arrays of different length": Mistake(
        recipe={"data": "{use: npy, inputs: inputs.npy, targets: targets.npy}"},
        prepare=unequal_arrays,
        what="5 inputs and 4 targets",
        where=r"inputs\.npy, targets\.npy",
        remedy="one target for each input",
    ),
    "pickled array": Mistake(
        recipe={"data": "{use: npy, inputs: inputs.npy, targets: targets.npy}"},
        prepare=pickled_array,
        what="no .npy array of numbers",
        where=r"/inputs\.npy$",
        remedy="numpy.save",
    ),
    "pattern without files": Mistake(
        base=TEXT,
        recipe={"data": "{use: text-files, files: ['*.md'], tokenizer: byte}"},
        what=r"no file matches '\*\.md' in /",
        where=r"recipe\.yaml:2 \(data\.files\)",
        remedy="mend the pattern, or set root",
    ),
    "empty corpus": Mistake(
        base=TEXT,
        recipe={"data": "{use: text-files, files: [empty.md], tokenizer: byte}"},
        prepare=touch("empty.md"),
        what="no text to learn from: the only file is empty",
        where=r"empty\.md",
        remedy="choose other files",
    ),
    "context longer than the text": Mistake(
        base=TEXT,
        arguments=["data.context=100000"],
        what=r"context of 100000 tokens is longer than the data of \d+ tokens",
        where=r"command line \(data\.context=100000\)",
        remedy="shorter context, or more text",
    ),
    "no valid target": Mistake(
        recipe={"data": "tests.app.brought:without_targets"},
        what="first 50 training samples hold no valid target",
        where=r"recipe\.yaml:2 \(data\)",
        remedy="-100",
    ),
    "no samples": Mistake(
        recipe={"data": "tests.app.brought:empty"},
        what="training data is empty",
        where=r"recipe\.yaml:2 \(data\)",
        remedy="at least one sample",
    ),
    "data set that fails": Mistake(
        recipe={"data": "tests.app.brought:BrokenDataset"},
        what="failed on sample 0: KeyError: 'audio'",
        where="sample 0",
        remedy=r"look at /.*brought\.py:\d+",
    ),
    "no data set": Mistake(
        recipe={"data": "tests.app.brought:NotAModule"},
        what="without __len__ and __getitem__",
        where=r"recipe\.yaml:2 \(data\)",
        remedy="map-style data set",
    ),
}

CODE = {
    "unknown class": Mistake(
        recipe={"model": "tests.app.brought:Slowly"},
        what="'tests.app.brought' has no 'Slowly'",
        where=r"recipe\.yaml:1 \(model",
        remedy="did you mean 'Slow'",
    ),
    "unknown module": Mistake(
        recipe={"model": "{use: 'my.models:Great'}"},
        what="no module 'my'",
        where=r"recipe\.yaml:1 \(model",
        remedy="start the command where the module lies",
    ),
    "module that fails": Mistake(
        recipe={"model": "{use: 'broken_module:Model'}"},
        prepare=touch("broken_module.py", "1 / 0"),
        what="importing 'broken_module' failed: ZeroDivisionError",
        where=r"recipe\.yaml:1 \(model",
        remedy=r"broken_module\.py:1",
    ),
    "constructor that fails": Mistake(
        recipe={"model": "tests.app.brought:FailsAtBirth"},
        what="'tests.app.brought:FailsAtBirth' failed while it was constructed: ValueError: the width is odd",
        where=r"recipe\.yaml:1 \(model\)",
        remedy=r"brought\.py:\d+",
    ),
    "argument the constructor lacks": Mistake(
        recipe={"model": "{use: 'tests.app.brought:Linear', depth: 3}"},
        what="depth",
        where=r"recipe\.yaml:1 \(model\.depth\)",
        remedy="known: classes, features",
    ),
    "not a module": Mistake(
        recipe={"model": "tests.app.brought:NotAModule"},
        what="not a torch.nn.Module",
        where=r"recipe\.yaml:1 \(model\)",
        remedy="derives from torch.nn.Module",
    ),
    "wrong output shape": Mistake(
        recipe={"model": "tests.app.brought:WrongShape"},
        what=r"output has shape \[2, 1, 10\].* expects \[2, 'classes'\]",
        where=r"recipe\.yaml:1 \(model\)",
        remedy="one row of logits for each target",
    ),
    "forward that fails": Mistake(
        recipe={"model": "tests.app.brought:FailsForward"},
        what=r"failed on a batch \(inputs \[2, 64\].*mat1 and mat2",
        where=r"brought\.py:\d+ in forward",
        remedy="compare the shapes",
    ),
    "too few classes": Mistake(
        recipe={"model": "{use: mlp, classes: 3}"},
        what="classes is 3, but the data has 10",
        where=r"recipe\.yaml:1 \(model\.classes\)",
        remedy="leave 'classes' out",
    ),
    "objective that does not fit": Mistake(
        recipe={"objective": "regression"},
        what=r"output has shape \[2, 10\]",
        where=r"recipe\.yaml:1 \(model\)",
        remedy="shape of the targets",
    ),
}

PLACES = {
    "file in the way of the runs": Mistake(
        prepare=touch("results"),
        arguments=["--folder", "results"],
        what="a file of that name stands in the way",
        where="results",
        remedy="choose another folder",
    ),
    "name that cannot be": Mistake(
        arguments=["--name", "a/b"],
        what="'a/b' cannot name a run",
        where="name",
        remedy="letters, digits",
    ),
    "name taken": Mistake(
        prepare=lambda: trained("digits", "mine"),
        arguments=["--name", "mine"],
        what="the name 'mine' is taken",
        where="runs/mine",
        remedy="choose another name.*modelwright runs remove mine",
        runs=["mine"],
    ),
}


@pytest.mark.parametrize(
    "mistake",
    [*RECIPES.values(), *DATA.values(), *CODE.values(), *PLACES.values()],
    ids=[*RECIPES, *DATA, *CODE, *PLACES],
)
def test_before_training(mistake: Mistake) -> None:
    write_recipe({**mistake.base, **mistake.recipe})
    mistake.prepare()
    check(invoke(*(mistake.command or ["train", "recipe.yaml", *mistake.arguments])), mistake)


def test_a_folder_where_nothing_can_be_written() -> None:
    write_recipe(DIGITS)
    mistake = Mistake(what="cannot write", where="runs", remedy="another|may write")
    check(invoke("train", "recipe.yaml", "--folder", unwritable_folder()), mistake)


def test_a_port_that_is_taken() -> None:
    write_recipe(DIGITS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = invoke("train", "recipe.yaml", f"launch.port={port}")
    where = rf"command line \(launch\.port={port}\)"
    check(outcome, Mistake(what=f"port {port} is taken", where=where, remedy="name another port, or none"))


def test_several_mistakes_are_told_together() -> None:
    write_recipe(DIGITS | {"batch": "many", "clip": "-1", "sead": "3"})
    outcome = invoke("train", "recipe.yaml")
    assert outcome.code == 2
    assert [re.search(pattern, outcome.err) is not None for pattern in (":5 ", ":8 ", ":9 ")] == [True] * 3
    assert outcome.err.count("to do: ") == 3


# --- runs


def run_of(kind: str = "digits", name: str = "mine", **record: object) -> Callable[[], Path]:
    return lambda: trained(kind, name, **record)


def without_weights() -> None:
    run = trained("digits", "mine", status="stopped")
    (run / "artifacts" / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")


def damaged_checkpoint() -> None:
    run = trained("digits", "mine", status="failed")
    (weights,) = (run / "checkpoints").glob("*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])


def damaged_weights() -> None:
    weights = trained("digits", "mine") / "artifacts" / "model.safetensors"
    weights.write_bytes(b"\xff" * 64)


def from_elsewhere() -> None:
    recipe = trained("digits", "mine", status="stopped") / "recipe.yaml"
    text = recipe.read_text()
    assert "use: adamw" in text
    recipe.write_text(text.replace("use: adamw", "use: 'stolen:Optimizer'"))


def with_recipe(text: str) -> Callable[[], object]:
    return lambda: (trained("digits", "mine", status="stopped") / "recipe.yaml").write_text(text)


def newer_plan() -> None:
    change_json(trained("digits", "mine", status="stopped") / "plan.json", format=99)


def without_plan() -> None:
    (trained("digits", "mine", status="stopped") / "plan.json").unlink()


def damaged_record() -> None:
    (trained("digits", "mine") / "run.json").write_text('{"format": 1, "id"')


RUNS = {
    "resume of a finished run": Mistake(
        command=["resume", "mine"], prepare=run_of(), what="finished: there is nothing to resume",
        where="runs/mine", remedy=r"extend it: .*budget\.steps=N; or .* branch",
    ),
    "resume of an unknown run": Mistake(
        command=["resume", "mien"], prepare=run_of(), what="no run 'mien'", where="runs", remedy="did you mean 'mine'"
    ),
    "evaluate of an unknown run": Mistake(
        command=["evaluate", "mien"], prepare=run_of(), what="no run 'mien'", where="runs", remedy="did you mean 'mine'"
    ),
    "no runs at all": Mistake(
        command=["runs", "show", "mine"], what="no run 'mine'", where="runs", remedy="--folder", runs=[]
    ),
    "not a run": Mistake(
        command=["report", "mine"], prepare=lambda: Path("runs/mine").mkdir(parents=True),
        what="not a run: it has no run.json", where="runs/mine", remedy="modelwright runs list",
    ),
    "resume of a run at work": Mistake(
        command=["resume", "mine"], prepare=run_of(status="running", process=this_process()),
        what="still at work", where="runs/mine", remedy="wait for it, or stop it",
    ),
    "removal of a run at work": Mistake(
        command=["runs", "remove", "mine"], prepare=run_of(status="running", process=this_process()),
        what="is running", where="runs/mine", remedy="--force",
    ),
    "evaluate without weights": Mistake(
        command=["evaluate", "mine"], prepare=without_weights,
        what="no weights yet", where="runs/mine", remedy="modelwright resume",
    ),
    "evaluate from a damaged checkpoint": Mistake(
        command=["evaluate", "mine"], prepare=damaged_checkpoint,
        what=r"damaged.*model\.safetensors has \d+ bytes instead of \d+",
        where="checkpoints", remedy="modelwright resume",
    ),
    "damaged weights": Mistake(
        command=["evaluate", "mine"], prepare=damaged_weights,
        what="not safetensors", where=r"artifacts/model\.safetensors", remedy="copy|remove",
    ),
    "generate without text": Mistake(
        command=["generate", "mine", "--prompt", "once"], prepare=run_of(),
        what="not text", where="runs/mine", remedy="run of a language model",
    ),
    "resume of code from elsewhere": Mistake(
        command=["resume", "mine"], prepare=from_elsewhere,
        what="from elsewhere and would run code of its own: stolen:Optimizer",
        where=r"runs/mine/recipe\.yaml", remedy="read that code, then add --trust",
    ),
    "evaluate of code from elsewhere": Mistake(
        command=["evaluate", "mine"], prepare=from_elsewhere,
        what="from elsewhere", where=r"runs/mine/recipe\.yaml", remedy="--trust",
    ),
    "trusted code that is not there": Mistake(
        command=["evaluate", "mine", "--trust"], prepare=from_elsewhere,
        what="no module 'stolen'", where=r"runs/mine/recipe\.yaml:\d+ \(optimizer", remedy="install it",
    ),
    "recipe of a run is not YAML": Mistake(
        command=["resume", "mine"], prepare=with_recipe("model: [mlp"),
        what="not YAML", where=r"runs/mine/recipe\.yaml:1", remedy="close the bracket",
    ),
    "recipe of a run is not sound": Mistake(
        command=["evaluate", "mine"], prepare=with_recipe(yaml({**DIGITS, "batch": "none"})),
        what="'batch' must be a count", where=r"runs/mine/recipe\.yaml:5 \(batch\)", remedy="samples of one step",
    ),
    "newer run": Mistake(
        command=["resume", "mine"], prepare=run_of(format=99),
        what="newer modelwright", where=r"runs/mine/run\.json", remedy="pip install -U modelwright",
    ),
    "newer plan": Mistake(
        command=["resume", "mine"], prepare=newer_plan,
        what="newer modelwright", where=r"runs/mine/plan\.json", remedy="pip install -U modelwright",
    ),
    "no plan": Mistake(
        command=["resume", "mine"], prepare=without_plan,
        what="no plan", where="runs/mine", remedy="modelwright train",
    ),
    "damaged record": Mistake(
        command=["evaluate", "mine"], prepare=damaged_record,
        what="not JSON", where=r"runs/mine/run\.json", remedy="copy|remove",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RUNS.values(), ids=RUNS)
def test_runs(mistake: Mistake) -> None:
    mistake.prepare()
    before = sorted(Path("runs").glob("*"))
    check(invoke(*mistake.command), mistake, left=[path.name for path in before])


@pytest.mark.parametrize("name", ["wrong key", "no valid target", "forward that fails"])
def test_for_machines(name: str) -> None:
    mistake = (RECIPES | DATA | CODE)[name]
    write_recipe({**mistake.base, **mistake.recipe})
    outcome = invoke("train", "recipe.yaml", "--json")
    error = outcome.json()["error"]
    assert error.keys() == {"what", "where", "remedy"}
    assert all(re.search(getattr(mistake, part), error[part]) for part in error)
    check(outcome, mistake)


@pytest.mark.parametrize(
    ("module", "extra", "fields"),
    [
        ("sklearn", "sklearn", DIGITS),
        ("tokenizers", "text", TEXT | {"data": "{use: text-files, files: ['*.txt'], tokenizer: bpe}"}),
    ],
)
def test_an_extra_that_is_not_installed(module: str, extra: str, fields: dict[str, str]) -> None:
    write_recipe(fields)
    outcome = run_command("train", "recipe.yaml", code=f"import sys; sys.modules['{module}'] = None")
    remedy = re.escape(f"pip install 'modelwright[{extra}]'")
    check(outcome, Mistake(what="optional part that is not installed", where=r"recipe\.yaml:2", remedy=remedy))


def test_the_report_needs_an_extra() -> None:
    trained("digits", "mine")
    outcome = run_command("report", "mine", code="import sys; sys.modules['plotly'] = None")
    check(outcome, Mistake(what="needs an optional part", where="", remedy=r"modelwright\[report\]"), left=["mine"])


# --- what only training finds


def test_a_model_that_fails_in_training() -> None:
    write_recipe(DIGITS | {"model": "tests.app.brought:FailsInTraining"})
    outcome = invoke("train", "recipe.yaml", "plan.workers=2", "--name", "mine")
    told = Mistake(what="RuntimeError: the cat sat on it", where=r"brought\.py:\d+ in forward", remedy=".", code=3)
    check(outcome, told, left=["mine"])
    record = json.loads(Path("runs/mine/run.json").read_text())
    assert record["status"] == "failed"
    assert "the cat sat on it" in record["error"]["what"]


def test_a_loss_that_diverges() -> None:
    write_recipe(DIGITS | {"optimizer": "{use: sgd, lr: 1e38}", "schedule": "constant", "budget": "{steps: 60}"})
    outcome = invoke("train", "recipe.yaml", "clip=null", "--name", "mine")
    check(outcome, Mistake(what="steps in a row", where=".", remedy="learning rate|lr", code=3), left=["mine"])
    assert json.loads(Path("runs/mine/run.json").read_text())["status"] == "failed"


def test_a_disk_that_is_full() -> None:
    write_recipe(DIGITS | {"model": "{use: mlp, hidden: [300, 300]}"})
    with small_disk(Path("runs"), kilobytes=600):
        outcome = invoke("train", "recipe.yaml", "--name", "mine")
        told = Mistake(what="cannot write: ", where="runs/mine/checkpoints", remedy="choose another folder", code=3)
        check(outcome, told, left=["mine"])
        assert "the disk is full" in outcome.err or "too large" in outcome.err
        assert json.loads(Path("runs/mine/run.json").read_text())["status"] == "failed"


def check(outcome: Outcome, mistake: Mistake, left: Sequence[str] | None = None) -> None:
    """The message has its three parts and no more; and nothing is left behind but the runs ``left``."""
    complaint = outcome.complaint
    assert outcome.code == mistake.code, outcome.err
    assert complaint, f"no complaint in: {outcome.err}"
    assert len(complaint) <= LONGEST
    assert "Traceback" not in outcome.err + outcome.out
    parts = dict(zip(("what", "where", "remedy"), split(complaint), strict=True))
    for part, text in parts.items():
        assert re.search(getattr(mistake, part), text), f"{part}: {text}"
    runs = sorted(path.name for path in Path("runs").glob("*") if path.name != "index.sqlite")
    assert runs == sorted(mistake.runs if left is None else left)


def split(complaint: Sequence[str]) -> tuple[str, str, str]:
    """What is wrong, where, and what to do."""
    where = [line for line in complaint if line.startswith("  where: ")]
    remedy = [line for line in complaint if line.startswith("  to do: ")]
    what = [line for line in complaint if line not in where + remedy]
    return " ".join(what), " ".join(where), " ".join(remedy)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A folder with little space, or, where nothing may be mounted, little space for each file."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
