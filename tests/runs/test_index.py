from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.runs.synthetic import RECIPE

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.runs import Run, compare, listing, reindex, remove


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    events: list[Event] = []
    with listening(events.append):
        yield events


def kinds(told: list[Event]) -> list[str]:
    seen = [event.kind for event in told]
    told.clear()
    return seen


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        Run.create(tmp_path / "runs", name, "train")
    return tmp_path / "runs"


def stored(folder: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(folder / "index.sqlite")) as database:
        return database.execute("SELECT * FROM runs ORDER BY name").fetchall()


def test_the_listing_follows_the_directories(tmp_path: Path, told: list[Event]) -> None:
    folder = folder_of(tmp_path, "a", "b")
    assert [row.name for row in listing(folder)] == ["a", "b"]
    assert kinds(told) == ["index-built"]
    Run.open("b", folder).update(status="finished", summary={"loss": 1.5})
    shutil.rmtree(folder / "a")
    folder_of(tmp_path, "c")
    (folder / "notes").mkdir()
    (folder / ".hidden").mkdir()
    rows = listing(folder)
    assert [(row.name, row.status, row.summary) for row in rows] == [
        ("b", "finished", {"loss": 1.5}),
        ("c", "created", {}),
    ]
    assert kinds(told) == []
    assert json.loads(json.dumps(rows[0].to_json()))["path"] == str(folder / "b")
    assert listing(tmp_path / "nowhere") == []


def test_reindexing_gives_what_was_kept_along_the_way(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b", "c")
    listing(folder)
    Run.open("b", folder).update(status="stopped")
    remove(Run.open("a", folder))
    folder_of(tmp_path, "d")
    rows, before = listing(folder), stored(folder)
    assert reindex(folder) == rows
    assert stored(folder) == before and len(before) == 3


@pytest.mark.parametrize("damage", ["garbage", "torn", "foreign", "older", "wrong-rows"])
def test_a_damaged_index_is_rebuilt_and_told(tmp_path: Path, told: list[Event], damage: str) -> None:
    folder = folder_of(tmp_path, "a", "b")
    rows = listing(folder)
    kinds(told)
    path = folder / "index.sqlite"
    if damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        change = {
            "foreign": "DROP TABLE runs",
            "older": "PRAGMA user_version = 0",
            "wrong-rows": "UPDATE runs SET record = 'x'",
        }
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(change[damage])
    assert listing(folder) == rows
    assert kinds(told) == ["index-rebuilt"]
    assert listing(folder) == rows
    assert kinds(told) == []


def test_a_locked_index_is_read_around(tmp_path: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "a")
    listing(folder)
    folder_of(tmp_path, "b")
    kinds(told)
    monkeypatch.setattr("modelwright.runs.index._WAIT", 0.1)
    with closing(sqlite3.connect(folder / "index.sqlite")) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert [row.name for row in listing(folder)] == ["a", "b"]
    assert set(kinds(told)) == {"index-unusable"}
    assert (folder / "index.sqlite").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions")
def test_a_read_only_folder_is_read_directly(told: list[Event]) -> None:
    place = Path(tempfile.mkdtemp())
    folder = folder_of(place, "a", "b")
    place.chmod(0o755)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        assert [row.name for row in listing(folder)] == ["a", "b"]
        assert set(kinds(told)) == {"index-built", "index-unusable"}
        with pytest.raises(ModelwrightError, match="permission"):
            Run.create(folder, "c", "train")
        with pytest.raises(ModelwrightError, match="permission"):
            remove(Run.open("a", folder))
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(place)


def test_an_unreadable_run_is_listed_as_such(tmp_path: Path, told: list[Event]) -> None:
    folder = folder_of(tmp_path, "a", "b")
    (folder / "a" / "run.json").write_text("{")
    rows = {row.name: row.status for row in listing(folder)}
    assert rows == {"a": "unreadable", "b": "created"}
    assert "run-unreadable" in kinds(told)


def test_a_thousand_runs_list_quickly(tmp_path: Path) -> None:
    template = Run.create(tmp_path / "runs", "run-0000", "train")
    text = (template.path / "run.json").read_text()
    for place in range(1, 1000):
        path = tmp_path / "runs" / f"run-{place:04}"
        path.mkdir()
        (path / "run.json").write_text(text)
    assert len(listing(tmp_path / "runs")) == 1000
    start = time.perf_counter()
    assert len(listing(tmp_path / "runs")) == 1000
    assert time.perf_counter() - start < 1.0


def test_a_running_run_is_not_removed_unless_forced(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    run = Run.open("a", folder)
    run.update(status="running")
    with pytest.raises(ModelwrightError, match="is running") as caught:
        remove(run)
    assert "--force" in caught.value.remedy and run.path.exists()
    remove(run, force=True)
    assert listing(folder) == [] and [path.name for path in folder.iterdir()] == ["index.sqlite"]


def test_what_a_killed_removal_left_is_unseen_and_swept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    (folder / "a").rename(folder / ".removed-a-1234")
    assert [row.name for row in listing(folder)] == ["b"]
    remove(Run.open("b", folder))
    assert [path.name for path in folder.iterdir()] == ["index.sqlite"]


def test_a_link_is_removed_and_its_run_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "l").symlink_to(folder / "a")
    remove(Run.open("l", tmp_path / "links"))
    assert (folder / "a" / "run.json").exists() and list((tmp_path / "links").iterdir()) == []


def test_comparing_shows_what_differs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b")
    first, second = Run.open("a", folder), Run.open("b", folder)
    first.write_recipe(RECIPE)
    second.write_recipe(RECIPE.replace("lr: 0.02", "lr: 0.01").replace("  width: 256\n", ""))
    first.update(summary={"loss": 2.0, "same": 1})
    second.update(summary={"loss": 1.9, "same": 1, "extra": {"deep": 3}})
    first.write_environment(gpu="x")
    second.write_environment(gpu="y")
    table = compare([first, second])
    assert dict(table.recipe) == {"optimizer.lr": [0.02, 0.01], "model.width": [256, None]}
    assert dict(table.summary) == {"loss": [2.0, 1.9], "same": [1, 1], "extra.deep": [None, 3]}
    assert dict(table.environment) == {"gpu": ["x", "y"]}
    assert json.dumps(table.to_json())


def test_a_recipe_that_is_no_yaml_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a")
    (folder / "a" / "recipe.yaml").write_text("a: [")
    with pytest.raises(ModelwrightError, match="not YAML"):
        compare([Run.open("a", folder)])
