"""The lock of a run: one holder at a time, and none after its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run, is_locked, locked, remove

HOLD = """
import sys, time
from pathlib import Path
from modelwright.runs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "a", "train")


def test_one_at_a_time(run: Run) -> None:
    assert not is_locked(run.path)
    with locked(run.path):
        assert is_locked(run.path)
        with pytest.raises(ModelwrightError, match="the run 'a' is still at work") as caught, locked(run.path):
            pass
        assert caught.value.where == str(run.path)
        assert is_locked(run.path)  # who was refused has not taken it away
    assert not is_locked(run.path)
    with locked(run.path):
        pass


def test_it_vanishes_with_its_process(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ModelwrightError, match="still at work"), locked(run.path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(run.path):
            pass


def test_processes_begun_meanwhile_do_not_hold_it(run: Run) -> None:
    with locked(run.path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        fork = os.fork()
        if fork == 0:
            time.sleep(600)
            os._exit(0)
    try:
        end = time.monotonic() + 10
        while is_locked(run.path) and time.monotonic() < end:
            time.sleep(0.01)  # until both have come so far
        assert not is_locked(run.path)
    finally:
        child.kill()
        child.wait()
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)


def test_a_run_that_is_being_planned_is_not_removed(run: Run) -> None:
    assert run.status() == "created"
    with locked(run.path):
        with pytest.raises(ModelwrightError, match="is running"):
            remove(run)
        assert run.path.exists()
        remove(run, force=True)
    assert not run.path.exists()


def test_a_run_is_removed_from_inside(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    opened = Run.open(".")
    assert (opened.name, opened.path) == ("a", run.path)
    assert Run.open("logs/..").name == "a"
    remove(opened)
    assert not run.path.exists()
    assert run.path.parent.exists()
