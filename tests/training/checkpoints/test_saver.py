"""Saving in the background: what is written is the state of one instant, and nothing that fails disappears."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from tests.training.small import heard, network, points, prepare, same, snapshot, stepping
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.optim.averages.ema import Ema
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.runs.weights import SHOWN, weights_of
from modelwright.training import checkpoints
from modelwright.training.checkpoints import writing
from modelwright.training.checkpoints.saver import Saver
from modelwright.training.fit import Saved
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Saving

HERE = "tests.training.checkpoints.test_saver"
ALONE = Group(0, 1)


def saver_of(prepared: Prepared, folder: Path, **saving: Any) -> Saver:
    return Saver(prepared.state, folder, prepared.group, Saving(**saving), weights=prepared.weights)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written before the event is set."""
    free = threading.Event()
    write_tensors = writing.write_tensors

    def held_back(tensors: Any, path: Path) -> Any:
        assert free.wait(20)
        return write_tensors(tensors, path)

    monkeypatch.setattr(writing, "write_tensors", held_back)
    yield free
    free.set()


# --- one instant


def test_training_goes_on_while_the_state_of_before_is_written(tmp_path: Path, held: threading.Event) -> None:
    prepared = prepare(points())
    training = stepping(prepared)
    list(islice(training, 3))
    at_three = snapshot(prepared)
    saver = saver_of(prepared, tmp_path)
    saver.begin()
    list(islice(training, 4))
    assert saver.written() == []
    assert checkpoints.list_checkpoints(tmp_path) == []
    held.set()
    assert saver.finish() == [tmp_path / "step-00000003"]
    assert saver.written() == []
    fresh = prepare(points())
    checkpoints.load_newest(fresh.state, tmp_path, ALONE)
    assert same(snapshot(fresh), at_three)
    assert fresh.state.step == 3
    assert not same(snapshot(prepared), at_three)


@pytest.mark.parametrize("change", [{}, {"averaging": Ema(decay=0.5)}, {"optimizer": ScheduleFree(lr=0.05)}])
def test_the_background_writes_the_very_files_of_the_foreground(tmp_path: Path, change: dict[str, Any]) -> None:
    """Dropout, averages and averaging optimizers included; every save, though the memory is the same."""
    prepared = prepare(points(), model=network(dropout=0.5), **change)
    saver = saver_of(prepared, tmp_path / "background", keep=9)
    for step in stepping(prepared):
        if step.number % 3 == 0:
            checkpoints.save(prepared.state, tmp_path / "foreground", ALONE, 9, prepared.weights)
            saver.begin()
    saver.finish()
    one, other = (files(tmp_path / where) for where in ("background", "foreground"))
    assert one == other
    assert len({content for name, content in one.items() if name.endswith("/model.safetensors")}) > 2
    assert any(SHOWN in name for name in one) == bool(change)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_shown_is_what_would_be_scored(tmp_path: Path) -> None:
    for change in ({"averaging": Ema(decay=0.5)}, {"optimizer": ScheduleFree(lr=0.05)}):
        prepared = prepare(points(), **change)
        list(islice(stepping(prepared), 5))
        live = snapshot(prepared)
        saver = saver_of(prepared, tmp_path / next(iter(change)))
        saver.begin()
        (path,) = saver.finish()
        with prepared.weights.shown():
            expected = {name: value.clone() for name, value in prepared.state.model_tensors().items()}
        assert same(load_file(weights_of(path)), expected)
        assert not same(load_file(path / "model.safetensors"), expected)
        assert same(snapshot(prepared), live)


# --- one at a time


def test_a_save_waits_for_the_one_before_and_says_how_long(tmp_path: Path, held: threading.Event) -> None:
    prepared = prepare(points())
    training = stepping(prepared)
    saver = saver_of(prepared, tmp_path)
    list(islice(training, 1))
    saver.begin()
    list(islice(training, 1))
    threading.Timer(0.4, held.set).start()
    with heard() as events:
        begin = time.perf_counter()
        saver.begin()
        waited = time.perf_counter() - begin
    assert waited > 0.3
    (event,) = events
    assert event.kind == "save-waited"
    assert event.details["step"] == 2
    assert 0.3 < float(str(event.details["seconds"])) <= waited
    assert saver.finish() == [tmp_path / "step-00000001", tmp_path / "step-00000002"]


def test_what_was_left_by_an_exception_is_written_before_anybody_looks(tmp_path: Path, held: threading.Event) -> None:
    """The stream is still open: nobody has closed it."""
    prepared = prepare(points(), saving=Saving(every=2))
    stream = prepared.run(tmp_path, lambda: False)
    list(islice(stream, 3))
    assert checkpoints.list_checkpoints(tmp_path) == []
    threading.Timer(0.2, held.set).start()
    fresh = prepare(points())
    assert checkpoints.load_newest(fresh.state, tmp_path, ALONE) == tmp_path / "step-00000002"
    stream.close()  # type: ignore[attr-defined]


class Broken(Exception):
    pass


def test_an_exception_in_training_waits_for_the_write(tmp_path: Path, held: threading.Event) -> None:
    prepared = prepare(points(), saving=Saving(every=2))

    def stop() -> bool:
        if prepared.state.step == 3:
            threading.Timer(0.2, held.set).start()
            raise Broken
        return False

    with pytest.raises(Broken):
        list(prepared.run(tmp_path, stop))
    assert checkpoints.find_damage(tmp_path / "step-00000002") is None


def test_ctrl_c_does_not_wait(tmp_path: Path, held: threading.Event) -> None:
    prepared = prepare(points(), saving=Saving(every=2))

    def stop() -> bool:
        if prepared.state.step == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        list(prepared.run(tmp_path, stop))
    assert checkpoints.list_checkpoints(tmp_path) == []


def test_a_checkpoint_is_told_of_once_it_is_there(tmp_path: Path) -> None:
    prepared = prepare(points(), saving=Saving(every=2, keep=9))
    told = []
    for record in prepared.run(tmp_path, lambda: False):
        if isinstance(record, Saved):
            assert checkpoints.find_damage(record.path) is None
            assert prepared.state.step >= record.step
            told.append(record.step)
    assert told == [2, 4, 6, 8, 10]


def test_leftovers_of_a_kill_are_taken_away(tmp_path: Path) -> None:
    for name in (".step-00000003.part", ".step-00000001.dropped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".other").mkdir()
    saver_of(prepare(points()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".other"]


# --- failures


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in whose files only a hundred bytes find room, as on a full disk."""
    write_tensors = writing.write_tensors

    def refused(tensors: Any, path: Path) -> Any:
        write_tensors(tensors, path)
        raise OSError(28, os.strerror(28), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_tensors", refused)
        yield tmp_path


def test_a_failed_write_is_raised_at_the_next_save(failing: Path) -> None:
    prepared = prepare(points())
    saver = saver_of(prepared, failing)
    with heard() as events:
        saver.begin()
        saver.leave()
        with pytest.raises(ModelwrightError, match="cannot write: the disk is full") as caught:
            saver.begin()
    assert "free some space" in caught.value.remedy
    assert str(failing) in caught.value.where
    assert [event.kind for event in events] == ["save-failed"]
    assert list(failing.iterdir()) == []


@pytest.mark.parametrize("every", [None, 3])
def test_a_failed_write_ends_the_training(failing: Path, every: int | None) -> None:
    """At the end at the latest, where it is the only one."""
    prepared = prepare(points(), saving=Saving(every=every))
    with pytest.raises(ModelwrightError, match="the disk is full"):
        list(prepared.run(failing, lambda: False))
    assert checkpoints.list_checkpoints(failing) == []


def test_a_failed_write_does_not_hide_what_came_first(failing: Path) -> None:
    prepared = prepare(points(), saving=Saving(every=3))

    def stop() -> bool:
        if prepared.state.step == 3:
            raise Broken
        return False

    with heard() as events, pytest.raises(Broken):
        list(prepared.run(failing, stop))
    assert [event.kind for event in events] == ["save-failed"]


def limited(mesh: Mesh, folder: str) -> str:
    """A first sitting leaves a checkpoint; in the second the system refuses files of more than a thousand bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    first = prepare(points(), mesh, saving=Saving(every=2))
    list(first.run(Path(folder), lambda: first.state.step == 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    second = prepare(points(), mesh, saving=Saving(every=2))
    checkpoints.load_newest(second.state, Path(folder), second.group)
    try:
        list(second.run(Path(folder), lambda: False))
    except ModelwrightError as error:
        return str(error)
    return "nothing was refused"


def test_the_system_refuses_in_the_background_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    (told,) = run_world(f"{HERE}:limited", 1, folder=str(tmp_path))
    assert told.startswith("cannot write: ")
    assert f"where: {tmp_path}" in told
    assert len(list(tmp_path.iterdir())) == 1
    (path,) = checkpoints.list_checkpoints(tmp_path)
    assert checkpoints.find_damage(path) is None


# --- several ranks


def saving_ranks(mesh: Mesh, folder: str) -> list[Any]:
    path = Path(folder)
    prepared = prepare(points(), mesh, micro_batch=2, saving=Saving(every=2))
    told = [record.step for record in prepared.run(path, lambda: False) if isinstance(record, Saved)]
    fresh = prepare(points(), mesh, micro_batch=2)
    loaded = checkpoints.load_newest(fresh.state, path, fresh.group)
    return [told, str(loaded), same(snapshot(fresh), snapshot(prepared))]


def test_one_rank_writes_and_all_see_the_same(tmp_path: Path) -> None:
    newest = str(tmp_path / "step-00000010")
    found = run_world(f"{HERE}:saving_ranks", 2, folder=str(tmp_path))
    assert found == [[[2, 4, 6, 8, 10], newest, True], [[], newest, True]]


def hidden_from_one(mesh: Mesh, folder: str) -> str:
    prepared = prepare(points(), mesh, micro_batch=2)
    try:
        checkpoints.load_newest(prepared.state, Path(folder) / f"of-{mesh.rank}", prepared.group)
    except ModelwrightError as error:
        return error.what
    return ""


def test_a_rank_that_cannot_see_the_checkpoint_does_not_start_anew(tmp_path: Path) -> None:
    checkpoints.save(prepare(points()).state, tmp_path / "of-0", ALONE, 1)
    found = run_world(f"{HERE}:hidden_from_one", 2, folder=str(tmp_path))
    assert all(what.startswith("rank 1 cannot read the checkpoint that rank 0 reads") for what in found)


# --- others read them


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("change", [{}, {"averaging": Ema(decay=0.5)}])
def test_torchs_distributed_checkpoint_reads_them(tmp_path: Path, change: dict[str, Any]) -> None:
    """So that other layouts can, each rank its own part."""
    prepared = prepare(points(), **change)
    list(islice(stepping(prepared), 4))
    path = checkpoints.save(prepared.state, tmp_path, ALONE, 1, prepared.weights)
    expected = {**prepared.state.model_tensors(), **prepared.state.optimizer_tensors()}
    expected |= prepared.state.further_tensors()
    found = {name: torch.full_like(tensor, 7) for name, tensor in expected.items()}
    dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    assert same(found, {name: tensor.detach() for name, tensor in expected.items()})


def test_older_checkpoints_are_still_read(tmp_path: Path) -> None:
    """Averages lay beside the live weights; the manifest had no score."""
    prepared = prepare(points(), averaging=Ema(decay=0.5))
    list(islice(stepping(prepared), 4))
    path = checkpoints.save(prepared.state, tmp_path, ALONE, 1, prepared.weights)
    shown = path / "shown.safetensors"
    (path / SHOWN).rename(shown)
    (path / SHOWN).parent.rmdir()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["shown.safetensors"] = manifest["files"].pop(SHOWN)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert weights_of(path) == shown
    fresh = prepare(points(), averaging=Ema(decay=0.5))
    assert checkpoints.load_newest(fresh.state, tmp_path, ALONE) == path
    assert same(snapshot(fresh), snapshot(prepared))
