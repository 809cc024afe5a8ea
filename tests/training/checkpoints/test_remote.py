"""A store that checkpoints are copied to: a fresh machine goes on from it, and nothing damaged is taken from it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tests.data.shards import s3
from tests.training.small import heard, points, prepare, same, snapshot, stepping
from tests.world import run_world

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.events import Event
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.data.memory import InMemory
from modelwright.runs import Run
from modelwright.training import checkpoints
from modelwright.training.checkpoints.remote import RemoteStore
from modelwright.training.fit import Saved
from modelwright.training.settings import Evaluation, Saving

fsspec = pytest.importorskip("fsspec")

HERE = "tests.training.checkpoints.test_remote"
ALONE = Group(0, 1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3-compatible server on this machine."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    store = fsspec.get_filesystem_class("s3")
    with s3.server() as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        store.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("runs")
        yield "s3://runs"
        store.clear_instance_cache()


@pytest.fixture(params=["memory", "folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "store")
        return
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    address = f"{base}/{uuid.uuid4().hex}/"
    yield address
    files, path = fsspec.core.url_to_fs(address)
    if files.exists(path):
        files.rm(path, recursive=True)


def machine(tmp_path: Path, name: str) -> Path:
    """The checkpoints of the run ``mine`` on a machine."""
    return tmp_path / name / "mine" / "checkpoints"


def begun(tmp_path: Path, name: str, recipe: str = "optimizer: {lr: 0.1}\n", data: str = "text-1") -> Path:
    """The same, of a run that has a record."""
    run = Run.create(tmp_path / name, "mine", "train")
    if recipe:
        run.write_recipe(recipe)
    (run.path / "data.json").write_text(json.dumps({"format": 1, "name": data}))
    return run.checkpoints


def trained(folder: Path, url: str, steps: int = 10, **saving: Any) -> Any:
    prepared = prepare(points(), saving=Saving(every=2, to=url, **saving))
    checkpoints.load_newest(prepared.state, folder, ALONE, url)
    list(prepared.run(folder, lambda: prepared.state.step >= steps))
    return prepared


def remote(url: str) -> RemoteStore:
    return RemoteStore(f"{url.rstrip('/')}/mine/checkpoints")


def place(url: str, path: str) -> tuple[Any, str]:
    files, base = fsspec.core.url_to_fs(f"{url.rstrip('/')}/mine/checkpoints")
    return files, f"{base}/{path}"


def overwrite(url: str, path: str, content: bytes) -> None:
    files, where = place(url, path)
    files.pipe_file(where, content)


def content(url: str, path: str) -> bytes:
    files, where = place(url, path)
    return bytes(files.cat_file(where))


def test_a_fresh_machine_goes_on_from_the_store(tmp_path: Path, url: str) -> None:
    whole = trained(machine(tmp_path, "whole"), f"{url.rstrip('/')}-other")
    trained(machine(tmp_path, "first"), url, steps=5)
    second = machine(tmp_path, "second")
    with heard() as events:
        resumed = trained(second, url)
    assert kinds(events) == ["checkpoint-fetched"]
    assert same(snapshot(resumed), snapshot(whole))
    assert remote(url).names() == ["step-00000010", "step-00000008"]
    for path in checkpoints.list_checkpoints(second):
        assert checkpoints.find_damage(path) is None
        for file in path.iterdir():
            assert content(url, f"{path.name}/{file.name}") == file.read_bytes()
    if "://" not in url:
        shutil.rmtree(f"{url.rstrip('/')}-other")


def test_what_is_on_the_disk_is_not_fetched(tmp_path: Path, url: str) -> None:
    folder = machine(tmp_path, "first")
    trained(folder, url, steps=5)
    fresh = prepare(points())
    with heard() as events:
        assert checkpoints.load_newest(fresh.state, folder, ALONE, url) == folder / "step-00000005"
    assert events == []


def kinds(events: list[Event]) -> list[str]:
    """On a busy machine saves may wait besides."""
    return [event.kind for event in events if event.kind != "save-waited"]


def lose_manifest(url: str) -> None:
    files, where = place(url, "step-00000010/manifest.json")
    files.rm_file(where)


def garble_manifest(url: str) -> None:
    overwrite(url, "step-00000010/manifest.json", b"[1, 2")


def truncate(url: str) -> None:
    overwrite(url, "step-00000010/optimizer.safetensors", b"half")


def flip(url: str) -> None:
    whole = content(url, "step-00000010/model.safetensors")
    overwrite(url, "step-00000010/model.safetensors", whole[:-1] + bytes([whole[-1] ^ 1]))


def lose(url: str) -> None:
    files, where = place(url, "step-00000010/state.json")
    files.rm_file(where)


def lead_away(url: str) -> None:
    manifest = json.loads(content(url, "step-00000010/manifest.json"))
    manifest["files"]["../../stolen"] = manifest["files"]["state.json"]
    overwrite(url, "step-00000010/manifest.json", json.dumps(manifest).encode())


DAMAGES = {
    lose_manifest: "its copying did not come to its end",
    garble_manifest: "its manifest is not readable",
    truncate: "optimizer.safetensors has 4 bytes instead of",
    flip: "model.safetensors differs from its hash",
    lose: "state.json is missing",
    lead_away: "its manifest is not readable",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_there_is_named_and_passed_over(tmp_path: Path, url: str, damage: Any) -> None:
    trained(machine(tmp_path, "first"), url)
    damage(url)
    second = machine(tmp_path, "second")
    fresh = prepare(points())
    with heard() as events:
        assert checkpoints.load_newest(fresh.state, second, ALONE, url) == second / "step-00000008"
    assert kinds(events) == ["checkpoint-damaged", "checkpoint-fetched"]
    assert DAMAGES[damage] in events[0].message
    assert "step-00000010" in events[0].message
    assert [path.name for path in second.iterdir()] == ["step-00000008"]


def test_a_damaged_one_on_the_disk_is_fetched_anew(tmp_path: Path, url: str) -> None:
    folder = machine(tmp_path, "first")
    prepared = trained(folder, url)
    (folder / "step-00000010" / "model.safetensors").write_bytes(b"damaged")
    fresh = prepare(points())
    with heard() as events:
        assert checkpoints.load_newest(fresh.state, folder, ALONE, url) == folder / "step-00000010"
    assert kinds(events) == ["checkpoint-damaged", "checkpoint-fetched"]
    assert same(snapshot(fresh), snapshot(prepared))


def test_the_best_stay_there_too(tmp_path: Path, url: str) -> None:
    prepared = prepare(
        points(),
        saving=Saving(every=2, to=url, keep=1),
        evaluation=Evaluation(every=2),
        held_out=InMemory(points(samples=30)),
    )
    folder = machine(tmp_path, "first")
    saver = checkpoints.Saver(prepared.state, folder, ALONE, Saving(to=url, keep=1))
    for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0), (4, 4.0)):
        prepared.state.step = step
        saver.observe({"loss": loss})
        saver.begin()
    saver.finish()
    assert remote(url).names() == ["step-00000004", "step-00000002"]
    assert content(url, "best.json") == (folder / "best.json").read_bytes()


def test_what_missed_the_store_is_copied_when_the_run_goes_on(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine(tmp_path, "first")
    with monkeypatch.context() as patched, pytest.raises(ModelwrightError, match="TimeoutError"):
        patched.setattr("modelwright.training.checkpoints.remote.RemoteStore", Unreachable)
        patched.setattr(Unreachable, "away", True)
        trained(folder, url)
    assert remote(url).names() == []
    assert [path.name for path in checkpoints.list_checkpoints(folder)] == ["step-00000010", "step-00000008"]
    with heard() as events:
        assert trained(folder, url).state.step == 10  # no step is left
    assert kinds(events) == ["checkpoint-stored", "checkpoint-stored"]
    assert remote(url).names() == ["step-00000010", "step-00000008"]
    for path in checkpoints.list_checkpoints(folder):
        assert remote(url).has(path)
    with heard() as events:
        trained(folder, url)
    assert kinds(events) == []  # nothing is missing any more
    again = prepare(points())
    assert checkpoints.load_newest(again.state, machine(tmp_path, "second"), ALONE, url) is not None


def test_what_is_half_copied_or_another_one_there_is_copied_and_what_is_damaged_here_is_not(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "store"), machine(tmp_path, "first")
    trained(folder, url)
    truth = content(url, "step-00000010/manifest.json")
    overwrite(url, "step-00000010/manifest.json", truth.replace(b'"format": 1', b'"format": 1 '))
    lost = place(url, "step-00000008/manifest.json")
    lost[0].rm_file(lost[1])
    (folder / "step-00000008" / "model.safetensors").write_bytes(b"damaged")
    with heard() as events:
        trained(folder, url)
    assert [event.details["step"] for event in events if event.kind == "checkpoint-stored"] == [10]
    assert content(url, "step-00000010/manifest.json") == truth
    assert not lost[0].exists(lost[1])


class Unreachable(RemoteStore):
    """Away for a while."""

    away = False

    def upload(self, path: Path) -> None:
        if Unreachable.away:
            raise ModelwrightError("the store does not work: TimeoutError", where="away")
        super().upload(path)


def test_a_store_out_of_reach_is_told_and_does_not_end_training(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelwright.training.checkpoints.remote.RemoteStore", Unreachable)
    folder = machine(tmp_path, "first")
    prepared = prepare(points(), saving=Saving(every=2, to=url))
    with heard() as events:
        for record in prepared.run(folder, lambda: False):
            if isinstance(record, Saved):
                Unreachable.away = record.step < 6
    assert set(kinds(events)) <= {"checkpoint-not-stored"}
    assert remote(url).names()[0] == "step-00000010"
    Unreachable.away = True
    again = prepare(points(), saving=Saving(every=2, to=url))
    with heard() as events, pytest.raises(ModelwrightError, match="TimeoutError"):
        list(again.run(machine(tmp_path, "other"), lambda: False))
    assert again.state.step == 10
    assert set(kinds(events)) == {"checkpoint-not-stored"}
    assert (machine(tmp_path, "other") / "step-00000010").exists()
    Unreachable.away = False


def test_a_store_that_does_not_work_is_found_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for wrong, kind in ((str(tmp_path / "file"), ModelwrightError), ("nosuch://bucket", ModelwrightError)):
        prepared = prepare(points(), saving=Saving(to=wrong))
        with pytest.raises(kind, match="the store does not work") as caught:
            prepared.run(tmp_path / "mine" / "checkpoints", lambda: False)
        assert wrong in caught.value.where
        with pytest.raises(ModelwrightError):  # to start anew would be a surprise
            checkpoints.load_newest(prepared.state, tmp_path / "none" / "checkpoints", ALONE, "nosuch://bucket")


def test_what_is_on_the_disk_is_enough_where_the_store_is_gone(tmp_path: Path) -> None:
    folder = machine(tmp_path, "first")
    saved = checkpoints.save(prepare(points()).state, folder, ALONE, 1)
    with heard() as events:
        assert checkpoints.load_newest(prepare(points()).state, folder, ALONE, "nosuch://bucket") == saved
    assert kinds(events) == ["store-unreachable"]


def test_what_talks_to_s3_is_an_extra(tmp_path: Path) -> None:
    try:
        import s3fs  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(MissingExtra, match=r"s3://bucket") as caught:
            prepare(points(), saving=Saving(to="s3://bucket")).run(tmp_path, lambda: False)
        assert "modelwright[store]" in caught.value.remedy


def fresh_ranks(mesh: Mesh, folder: str, url: str) -> list[Any]:
    prepared = prepare(points(), mesh, micro_batch=2)
    path = checkpoints.load_newest(prepared.state, Path(folder), prepared.group, url)
    return [str(path), prepared.state.step]


def test_all_ranks_load_what_one_fetched(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    trained(machine(tmp_path, "first"), url)
    second = machine(tmp_path, "second")
    found = run_world(f"{HERE}:fresh_ranks", 2, folder=str(second), url=url)
    assert found == [[str(second / "step-00000010"), 10]] * 2


def test_half_an_upload_is_recognised(tmp_path: Path, url: str) -> None:
    """The manifest comes last; one of an earlier checkpoint of that name goes first."""
    prepared = prepare(points())
    list(islice(stepping(prepared), 2))
    path = checkpoints.save(prepared.state, machine(tmp_path, "first"), ALONE, 1)
    remote(url).upload(path)
    stopping = remote(url)
    put_file = stopping._files.put_file

    def stopped(source: str, target: str) -> None:
        if target.endswith("optimizer.safetensors"):
            raise ConnectionError("the line is cut")
        put_file(source, target)

    stopping._files.put_file = stopped
    try:
        with pytest.raises(ModelwrightError, match="the line is cut"):
            stopping.upload(path)
    finally:
        stopping._files.put_file = put_file
    second = machine(tmp_path, "second")
    with heard() as events:
        assert checkpoints.load_newest(prepare(points()).state, second, ALONE, url) is None
    assert kinds(events) == ["checkpoint-damaged"]


# --- whose they are


def test_a_run_of_the_same_name_that_learns_the_same_goes_on(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    first, second = begun(tmp_path, "first"), begun(tmp_path, "second", "plan: {workers: 2}\noptimizer: {lr: 0.1}\n")
    trained(first, url, steps=5)
    with heard() as events:
        assert trained(second, url, steps=8).state.step == 8
    assert kinds(events) == ["checkpoint-fetched"]
    with heard() as events:  # the first machine is there again
        assert trained(first, url).state.step == 10
    assert kinds(events) == ["checkpoint-fetched"]
    assert len(remote(url).mark()["runs"]) == 2


@pytest.mark.parametrize(
    ("recipe", "data", "why"),
    [
        ("optimizer: {lr: 0.2}\n", "text-1", "which differs in optimizer.lr"),
        ("optimizer: {lr: 0.1}\n", "text-2", "which differs in the data itself"),
    ],
)
def test_another_run_of_the_same_name_is_refused(tmp_path: Path, recipe: str, data: str, why: str) -> None:
    url = str(tmp_path / "store")
    trained(begun(tmp_path, "first"), url, steps=5)
    other = begun(tmp_path, "other", recipe, data)
    prepared = prepare(points(), saving=Saving(to=url))
    for attempt in (
        lambda: checkpoints.load_newest(prepared.state, other, ALONE, url),
        lambda: checkpoints.find_newest(other, url),
        lambda: prepared.run(other, lambda: False),  # before the first step
    ):
        with pytest.raises(ModelwrightError, match="another run that is called 'mine'") as caught:
            attempt()
        assert why in caught.value.what
    assert not checkpoints.list_checkpoints(other)


def test_a_run_with_checkpoints_of_its_own_takes_over_no_others(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    trained(begun(tmp_path, "first"), url, steps=5)
    other = begun(tmp_path, "other")
    checkpoints.save(prepare(points()).state, other, ALONE, 1)
    with pytest.raises(ModelwrightError, match="this run has checkpoints of its own"):
        trained(other, url)
    assert remote(url).names() == ["step-00000005", "step-00000004"]


def test_where_nothing_tells_what_was_learnt_it_is_said(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    first, second = begun(tmp_path, "first", ""), begun(tmp_path, "second", "")
    for folder in (first, second):
        (folder.parent / "data.json").unlink()  # begun in Python
    trained(first, url, steps=5)
    with heard() as events:
        trained(second, url)
    assert kinds(events) == ["store-taken-over", "checkpoint-fetched"]


def test_a_store_from_before_marks_is_known_by_its_checkpoints(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    folder = begun(tmp_path, "first")
    trained(folder, url, steps=5)
    files, mark = place(url, "run.json")
    files.rm_file(mark)
    assert trained(folder, url, steps=6).state.step == 6
    files.rm_file(mark)
    overwrite(url, "step-00000006/manifest.json", b"{}")
    overwrite(url, "step-00000005/manifest.json", b"{}")
    files.makedirs(place(url, "step-00000099")[1])
    overwrite(url, "step-00000099/manifest.json", b"{}")
    with pytest.raises(ModelwrightError, match="another run"):
        trained(folder, url)
    files.rm(place(url, "step-00000099")[1], recursive=True)
    assert trained(folder, url, steps=7).state.step == 7  # it was only out of reach for a while
