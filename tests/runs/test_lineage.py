"""Where a run comes from, and how its recipe was revised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelwright.runs import Run, directory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def line(folder: Path, count: int) -> list[Run]:
    runs = [Run.create(folder, "run-0", "train")]
    for number in range(1, count):
        runs.append(Run.create(folder, f"run-{number}", "train", parent=runs[-1]))
        runs[-1].branched(10 * number, f"hash-{number}")
    return runs


def test_the_line_goes_up_to_the_first(tmp_path: Path) -> None:
    runs = line(tmp_path / "runs", 4)
    assert [run.name for run in runs[3].lineage()] == ["run-2", "run-1", "run-0"]
    assert runs[0].lineage() == []
    record = Run.open("run-3", tmp_path / "runs").record
    assert (record.parent_step, record.parent_hash) == (30, "hash-3")


def test_it_ends_where_one_is_gone_or_is_another(tmp_path: Path) -> None:
    runs = line(tmp_path / "runs", 4)
    path = runs[1].path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "0" * 32}))
    assert [run.name for run in runs[3].lineage()] == ["run-2"]


def test_a_ring_is_no_endless_line(tmp_path: Path) -> None:
    runs = line(tmp_path / "runs", 2)
    path = runs[0].path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": runs[1].record.id, "parent_path": "../run-1"}))
    assert [run.name for run in runs[1].lineage()] == ["run-0"]


def test_a_record_of_before_has_no_step(tmp_path: Path) -> None:
    (run,) = line(tmp_path / "runs", 1)
    path = run.path / "run.json"
    values = json.loads(path.read_text())
    for name in ("parent_step", "parent_hash"):
        del values[name]
    path.write_text(json.dumps(values))
    assert run.record.parent_step is None


def test_a_revised_recipe_is_numbered_and_still_ours(tmp_path: Path) -> None:
    (run,) = line(tmp_path / "runs", 1)
    run.write_recipe("batch: 1\n")
    for number in (2, 3):
        run.revise_recipe(f"batch: {number}\n")
        run.revise_recipe(f"batch: {number}\n")
    assert run.recipe() == "batch: 3\n" and run.ours()
    assert [(run.path / f"recipe-{number}.yaml").read_text() for number in (1, 2)] == ["batch: 1\n", "batch: 2\n"]
    assert not (run.path / "recipe-3.yaml").exists()


def test_a_kill_while_a_recipe_is_revised_leaves_one_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    (run,) = line(tmp_path / "runs", 1)
    run.recipe_path.write_text("batch: 1\n")  # by a version that noted none
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(directory, "write_text", lambda path, text: killed(path, text) if "2" in text else None)
        run.revise_recipe("batch: 2\n")
    assert run.recipe() == "batch: 1\n" and not run.edited()
    run.revise_recipe("batch: 2\n")
    assert not run.edited()
    run.recipe_path.write_text("batch: 2 # a remark\n")
    assert not run.edited()
    run.recipe_path.write_text("batch: 3\n")
    assert run.edited()


def test_a_revised_recipe_from_elsewhere_stays_from_elsewhere(tmp_path: Path) -> None:
    (run,) = line(tmp_path / "runs", 1)
    run.write_recipe("batch: 1\n")
    run.recipe_path.write_text("batch: 1 # of somebody else\n")
    assert not run.ours()
    run.revise_recipe("batch: 2\n")
    assert run.recipe() == "batch: 2\n" and not run.ours()
