"""The doctor: what it finds on this machine, and what it says where something is amiss."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.command import run_command

from modelwright.app.doctor import Finding, examine, shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(scope="module")
def findings(folder: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(folder / "runs")}


def test_what_is_there(findings: dict[str, Finding]) -> None:
    assert findings["python"].found.startswith(".".join(map(str, sys.version_info[:3])))
    assert findings["torch"].found == torch.__version__
    assert findings["two workers"] == Finding("two workers", "ok", "meet and exchange tensors")
    assert all(finding.found for finding in findings.values())


def test_the_device(findings: dict[str, Finding]) -> None:
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name(0) in findings["device"].found
    else:
        assert f"{len(os.sched_getaffinity(0))} cores" in findings["device"].found


def test_the_disk(findings: dict[str, Finding]) -> None:
    free = shutil.disk_usage("/tmp").free
    assert (findings["disk"].state == "ok") == (free >= 1e9)


@pytest.mark.usefixtures("findings")
def test_nothing_is_left_behind(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written() -> None:
    Path("runs").write_text("a file")
    finding = {finding.name: finding for finding in examine(Path("runs"))}["runs folder"]
    assert finding.state == "error"
    assert "stands in the way" in finding.found
    assert finding.remedy == "choose another folder"


def test_an_extra_that_is_missing() -> None:
    outcome = run_command("doctor", "--json", code="import sys; sys.modules['plotly'] = None")
    found = {finding["name"]: finding for finding in outcome.json()}["plotly"]
    assert found == {
        "name": "plotly",
        "state": "warning",
        "found": "not installed",
        "remedy": "pip install 'modelwright[report]'",
    }
    assert outcome.code == 0, "something optional is no error"


def test_how_it_looks() -> None:
    console = Console(record=True, width=100)
    console.print(shown([Finding("disk", "warning", "3 MB [free]", "free some space"), Finding("torch", "ok", "2")]))
    lines = console.export_text().splitlines()
    assert [line.split() for line in lines] == [
        ["disk", "warning", "3", "MB", "[free]", "->", "free", "some", "space"],
        ["torch", "ok", "2"],
    ]
