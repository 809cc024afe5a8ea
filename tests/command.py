"""The command ``modelwright`` as tests run it: in this process, or as a process that can be killed."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.forking import Forked
from tests.world import warm
from typer.testing import CliRunner

from modelwright.app import branch, resume, train
from modelwright.cli import app
from modelwright.launch import Warm

PATIENCE = 180.0  # Seconds; machines under test are shared.

DIGITS = {
    "model": "{use: mlp, hidden: [16]}",
    "data": "sklearn",
    "objective": "classification",
    "optimizer": "adamw",
    "batch": "32",
    "budget": "{steps: 12}",
    "plan": "{measure: false, workers: 1, threads: 1, precision: fp32}",
}
TEXT = DIGITS | {
    "model": "{use: gpt, layers: 1, width: 16, heads: 2}",
    "data": "{use: text-files, files: ['*.txt'], context: 16, held_out: 0.3, tokenizer: byte}",
    "objective": "next-token",
    "batch": "8",
    "evaluation": "{metrics: [bits-per-byte]}",
}
SLOW = DIGITS | {
    "model": "tests.app.brought:Slow",
    "budget": "{steps: 60}",
    "plan": "{measure: false, workers: 2, threads: 1, precision: fp32}",
}
"""Two workers whose steps take long enough to be met in the middle."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> list[str]:
        """The lines of the error message: what, where, what to do."""
        lines = self.err.splitlines()
        begin = next((place for place, line in enumerate(lines) if line.startswith("error ")), len(lines))
        return lines[begin:]

    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


def yaml(fields: Mapping[str, str]) -> str:
    """A recipe with one field a line."""
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def write_recipe(fields: Mapping[str, str], path: str = "recipe.yaml") -> Path:
    """Write a recipe, and the texts that it may read."""
    for number in range(6):
        Path(f"{number}.txt").write_text(f"the text number {number} says: " + "a few words, again " * (number + 3))
    Path(path).write_text(yaml(fields))
    return Path(path)


def invoke(*arguments: str) -> Outcome:
    """Run the command in this process, which has imported torch already; its workers come from one warm parent."""
    with ExitStack() as stack:
        for verb in (train, resume, branch):
            stack.enter_context(patch.object(verb, "Warm", shared_warm))
        result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@contextmanager
def shared_warm(preload: Sequence[str]) -> Iterator[Warm]:
    """The warm parent of this test session: importing torch anew for each run takes seconds."""
    parent = warm()
    parent.also(preload)
    yield parent


def run_command(*arguments: str, code: str = "", anew: bool = False) -> Outcome:
    """Run the command in a process of its own; ``code`` runs in it first.

    Args:
        arguments: of the command.
        code: Python.
        anew: whether in a new Python, which has imported nothing, instead of in a fork of one that knows torch.
    """
    if not anew:
        with closing(Forked(*arguments, code=code)) as process:
            return finish(process)
    call = ["-c", f"{code}\nimport modelwright.cli\nmodelwright.cli.main()"] if code else ["-m", "modelwright"]
    done = subprocess.run(
        [sys.executable, *call, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def started(*arguments: str) -> closing[Forked]:
    """Begin the command in a process group of its own, as a shell does; none of it is left at the end."""
    return closing(Forked(*arguments))


@contextmanager
def started_anew(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Begin the command as :func:`started` does, in a new Python instead of in a fork of one that knows torch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "modelwright", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: Forked | subprocess.Popen[str]) -> Outcome:
    """Wait for a process to end."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode is not None
    return Outcome(process.returncode, out, err)


def until(condition: Callable[[], object], what: str, process: Forked | subprocess.Popen[str] | None = None) -> None:
    """Wait for something to come true, for as long as the process that makes it true lives."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"still waiting for: {what}"
        assert process is None or process.poll() is None, finish(process).err
        time.sleep(0.05)


def worker_pids(run: Path) -> list[int]:
    """Process ids of the workers by rank, of the latest attempt."""
    logs = sorted((run / "logs").glob("rank-*.txt"))
    found = [re.findall(r"^--- attempt .*, pid (\d+)$", log.read_text(), re.MULTILINE) for log in logs]
    return [int(pids[-1]) for pids in found if pids]


def is_alive(pid: int) -> bool:
    """Whether a process works, rather than waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def steps_in(run: Path) -> list[int]:
    """Numbers of the steps in a run's metrics, in the order they were written."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row["step"] for row in rows if row["kind"] == "step"]


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder``, with caches and configuration that the tests of one session share."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(_shared() / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(_shared() / "config"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("COLUMNS", "120")


def trained(kind: str, name: str, **record: object) -> Path:
    """A copy, below ``runs/``, of a finished run: of ``digits``, or of a language model of ``text``.

    Args:
        kind: which.
        name: of the copy.
        record: what to change in its :file:`run.json`.
    """
    run = Path("runs") / name
    shutil.copytree(_trained(kind), run)
    change_json(run / "run.json", **record)
    return run


def change_json(path: Path, **values: object) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@cache
def _shared() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="modelwright-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _trained(kind: str) -> Path:
    here, folder = Path.cwd(), _shared() / kind
    folder.mkdir()
    os.chdir(folder)
    try:
        write_recipe({"digits": DIGITS, "text": TEXT}[kind])
        outcome = invoke("train", "recipe.yaml", "--name", kind)
    finally:
        os.chdir(here)
    assert outcome.code == 0, outcome.err
    return folder / "runs" / kind
