from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.data.folders import build_once

BUILD = """
import sys, time
from pathlib import Path
from modelwright.data.folders import build_once

def build(folder):
    (folder / "half").touch()
    with (folder.parent / "builds").open("a") as file:
        file.write("x")
    time.sleep(float(sys.argv[2]))
    (folder / "whole").touch()

build_once(Path(sys.argv[1]), build)
"""


def _building(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(folder), str(seconds)])


def test_built_once_by_many_processes(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "result"
    processes = [_building(folder, 0.3) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (folder.parent / "builds").read_text(encoding="utf-8") == "x"
    assert sorted(path.name for path in folder.iterdir()) == ["half", "whole"]


def test_killed_builders_leave_nothing_that_counts(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    process = _building(folder, 60)
    while not list(tmp_path.glob(".result.*.part/half")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not folder.exists()
    build_once(folder, lambda temporary: (temporary / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert not list(tmp_path.glob(".*.part"))


def test_failed_builders_leave_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ModelwrightError("no")

    with pytest.raises(ModelwrightError, match="no"):
        build_once(tmp_path / "result", fail)
    assert not list(tmp_path.glob("*result/")) and not list(tmp_path.glob(".*.part"))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelwrightError) as caught:
        build_once(tmp_path / "file" / "result", lambda temporary: None)
    assert str(tmp_path / "file") in caught.value.where
