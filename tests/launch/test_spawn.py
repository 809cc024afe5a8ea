from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.launch import spawn

MODULE = """
import os
from modelwright.base.errors import ModelwrightError

def main(arguments):
    print("rank", os.environ["RANK"], *arguments)

def mistake(arguments):
    raise ModelwrightError("no such column", where="data.csv")

def bug(arguments):
    print("before the bug")
    raise ZeroDivisionError("halves of nothing")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "spawned_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return "spawned_module"


def test_spawn_waits_and_repeats_what_rank_0_says(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    spawn(f"{module}:main", workers=2, arguments=("one", "two"))
    assert capsys.readouterr().out == "rank 0 one two\n"


def test_spawn_finds_modules_of_the_working_directory(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry != str(tmp_path))])
    spawn(module, workers=1)
    assert capsys.readouterr().out == "rank 0\n"


def test_spawn_raises_what_a_rank_died_of(module: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="no such column"):
        spawn(f"{module}:mistake", workers=2)
    with pytest.raises(RunFailed, match="ZeroDivisionError: halves of nothing") as told:
        spawn(f"{module}:bug", workers=1, logs=tmp_path)
    assert "before the bug" in str(told.value)
    assert "before the bug" in (tmp_path / "rank-0.txt").read_text()


def test_launch_imports_neither_torch_nor_numpy() -> None:
    modules = "modelwright.launch, modelwright.launch.parent"
    code = f"import sys, {modules}; print({{'torch', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
