from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs.synthetic import plan

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run
from modelwright.runs.jsonlines import Appender
from modelwright.runs.names import check_name


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_new_run_has_its_folders_and_its_record(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "first", "train")
    written = json.loads((run.path / "run.json").read_text())
    assert (written["format"], written["name"], written["verb"], written["status"]) == (
        1,
        "first",
        "train",
        "created",
    )
    assert run.checkpoints.is_dir() and run.artifacts.is_dir() and run.logs.is_dir()
    assert Run.open("first", tmp_path / "runs").record == run.record == Run.open(run.path).record


def test_a_run_without_a_name_gets_one(tmp_path: Path) -> None:
    names = {Run.create(tmp_path, None, "tune").name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("tune-2") and len(name.split("-")) == 4 for name in names)


def test_a_taken_name_says_what_to_do(tmp_path: Path) -> None:
    first = Run.create(tmp_path, "same", "train")
    before = (first.path / "run.json").read_bytes()
    with pytest.raises(ModelwrightError, match="taken") as caught:
        Run.create(tmp_path, "same", "train")
    assert "modelwright resume same" in caught.value.remedy
    assert (first.path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "a\\b", "..", ".hidden", "-x", "a\nb", "a\x00b", "a\u202eb", "\ud800", "x" * 200, "a "],
)
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelwrightError, match="cannot name a run"):
        Run.create(tmp_path, name, "train")
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=30))
def test_an_accepted_name_stays_inside_its_folder(name: str) -> None:
    try:
        check_name(name)
    except ModelwrightError:
        return
    assert (Path("/folder") / name).resolve().parent == Path("/folder")
    assert name.isprintable()


def test_opening_names_the_nearest(tmp_path: Path) -> None:
    Run.create(tmp_path, "small-gpt", "train")
    with pytest.raises(ModelwrightError, match="no run 'smal-gpt'") as caught:
        Run.open("smal-gpt", tmp_path)
    assert "small-gpt" in caught.value.remedy
    with pytest.raises(ModelwrightError, match="no run") as caught:
        Run.open(tmp_path / "small-gtp")
    assert "small-gpt" in caught.value.remedy


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ModelwrightError, match="not a run"):
        Run.open("photos", tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "future", "train")
    record = {**run.record.to_json(), "format": 2}
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ModelwrightError, match="newer") as caught:
        Run.open(run.path)
    assert "upgrade" in caught.value.remedy


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": "x"}', "\xff"])
def test_a_damaged_record_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    run = Run.create(tmp_path, "damaged", "train")
    (run.path / "run.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ModelwrightError) as caught:
        Run.open(run.path)
    assert "run.json" in caught.value.where


def test_update_merges_the_summary_and_notes_the_end(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    run.update(status="running", summary={"loss": 2.0})
    assert run.record.ended is None
    run.update(status="failed", summary={"bits": math.inf}, error=ModelwrightError("bad", where="x:1", remedy="mend"))
    assert run.record.summary == {"loss": 2.0, "bits": "inf"}
    assert run.record.error == {"what": "bad", "where": "x:1", "remedy": "mend"}
    assert run.record.ended is not None
    run.update(status="running")
    assert run.record.ended is None and run.record.error is None


def test_no_folder_to_write_to_speaks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelwrightError) as caught:
        Run.create(tmp_path / "file" / "runs", "r", "train")
    assert caught.value.remedy


def test_a_run_that_could_not_be_made_uses_up_no_name(tmp_path: Path) -> None:
    parent = Run.create(tmp_path, "parent", "train")
    (parent.path / "run.json").unlink()
    with pytest.raises(ModelwrightError, match="does not exist"):
        Run.create(tmp_path, "child", "compress", parent=parent)
    assert not (tmp_path / "child").exists()


def test_a_folder_in_the_way_is_told_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ModelwrightError, match="taken") as caught:
        Run.create(tmp_path, "photos", "train")
    assert "resume" not in caught.value.remedy and (tmp_path / "photos").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_speaks(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    run.events_path.symlink_to("/dev/full")
    file = Appender(run.events_path)
    with pytest.raises(ModelwrightError, match="disk is full"):
        file.append(b"{}\n")
    file.close()


def test_plans_are_numbered_and_the_older_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    assert run.plan() is None
    first = run.write_plan(plan())
    assert run.write_plan(plan()) == first
    second = run.write_plan(replace(plan(), micro_batch=8))
    third = run.write_plan(replace(plan(), micro_batch=4))
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert run.plan() == third
    kept = {path.name: json.loads(path.read_text())["micro_batch"] for path in run.path.glob("plan-*.json")}
    assert kept == {"plan-1.json": 16, "plan-2.json": 8}


def test_lineage_survives_copying_the_folder(tmp_path: Path) -> None:
    parent = Run.create(tmp_path / "runs", "parent", "train")
    child = Run.create(tmp_path / "runs", "child", "compress", parent=parent)
    assert child.record.parent == parent.record.id
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "runs")
    found = Run.open("child", tmp_path / "elsewhere").parent()
    assert found is not None and found.path == tmp_path / "elsewhere" / "parent"
    shutil.rmtree(found.path)
    Run.create(tmp_path / "elsewhere", "parent", "train")
    assert Run.open("child", tmp_path / "elsewhere").parent() is None  # another run of the same name


def _create(folder: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        Run.create(folder, "contested", "train")
        results.put("made")  # type: ignore[attr-defined]
    except ModelwrightError as error:
        results.put(error.what)  # type: ignore[attr-defined]


def test_one_of_many_at_once_gets_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_create, args=(tmp_path, barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    answers = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert answers == ["made"] + ["the name 'contested' is taken"] * 3
    assert Run.open("contested", tmp_path).record.name == "contested"


_UPDATING = """
import sys
from pathlib import Path
from modelwright.runs import Run
run = Run.open(Path(sys.argv[1]))
run.update(status="running")
count = 0
while True:
    count += 1
    run.update(summary={"first": count, "padding": "x" * 20000, "last": count})
    print("ready", flush=True) if count == 1 else None
"""


def test_a_kill_in_the_middle_leaves_a_whole_record(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "killed", "train")
    for delay in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", _UPDATING, run.path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert run.alive() and run.status() == "running"
        time.sleep(delay)
        summary = run.record.summary  # a reader in between sees a whole record, too
        assert summary.get("first") == summary.get("last")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        summary = Run.open(run.path).record.summary
        assert summary["first"] == summary["last"]
        assert not run.alive() and run.status() == "interrupted"


def test_a_number_given_to_another_process_is_not_alive(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    run.update(status="running")
    assert run.alive()
    record = run.record.to_json()
    for change in ({"started": "1"}, {"boot": "another"}, {"pid": 2**22 + 1}):
        record["process"] = {**run.record.process, **change}
        (run.path / "run.json").write_text(json.dumps(record))
        assert not run.alive(), change
        record = Run(run.path).record.to_json()
        run.update(status="running")


def test_on_another_machine_recent_changes_tell(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    run.update(status="running")
    record = run.record.to_json()
    record["process"]["host"] = "another"
    (run.path / "run.json").write_text(json.dumps(record))
    assert run.status() == "running"
    os.utime(run.path / "run.json", (1, 1))
    assert run.status() == "interrupted"
