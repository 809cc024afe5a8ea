"""A stranger follows CONTRIBUTING: one file, one line, and the contract runs over the new technique."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTING = "src/modelwright/optim/__init__.py"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with what CONTRIBUTING says to add."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src", "tests/optim"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = r":\n\n```python\n(.*?)```"
    found = re.search(rf"`(src/[\w/]+\.py)`{block}.*?`{re.escape(LISTING)}`{block}", text, re.S)
    assert found, "CONTRIBUTING no longer shows a file and its line"
    path, technique, line = found.groups()
    (folder / path).write_text(technique)
    listing = folder / LISTING
    opening = 'SCHEDULES = Family(\n    "schedule",\n    {\n'
    assert opening in listing.read_text()
    listing.write_text(listing.read_text().replace(opening, opening + line))
    return folder


def run_contract(clone: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/optim/test_contract.py",
        "-k",
        name,
    ]
    environment = {"PYTHONPATH": str(clone / "src"), "PATH": ""}
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=300)


def test_contract_runs_over_the_new_schedule(clone: Path) -> None:
    done = run_contract(clone, "square")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 10


def test_contract_catches_a_wrong_schedule(clone: Path) -> None:
    path = clone / "src/modelwright/optim/schedules/square.py"
    right = path.read_text()
    path.write_text(right.replace("** 2", "** 2 - 0.5"))
    try:
        done = run_contract(clone, "square")
    finally:
        path.write_text(right)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed" in done.stdout
