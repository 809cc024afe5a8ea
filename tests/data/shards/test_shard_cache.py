"""The cache of downloads: bounded, shared by processes, and never trusting what came."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data.shards.made import build, write_texts

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.shards import cache as caching
from modelwright.data.shards.cache import CacheFull, ShardCache
from modelwright.data.shards.manifest import NAME, Manifest, Shard, parse
from modelwright.data.shards.store import LocalStore


class Counted(LocalStore):
    """A folder that notes what is fetched, and can be slow or spoil what comes."""

    def __init__(self, folder: Path, log: Path, *, slow: float = 0.0, spoilt: int = 0) -> None:
        super().__init__(folder)
        self._log, self._slow, self.spoilt = log, slow, spoilt

    def fetch(self, name: str, to: Path) -> None:
        with self._log.open("a") as log:
            log.write(f"{os.getpid()} {name}\n")
        time.sleep(self._slow)
        super().fetch(name, to)
        if self.spoilt:
            self.spoilt -= 1
            to.write_bytes(b"x" + to.read_bytes()[1:])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    build(write_texts(tmp_path / "texts"), tmp_path / "shards")
    return parse((tmp_path / "shards" / NAME).read_bytes(), "")


@pytest.fixture
def shards(manifest: Manifest) -> Sequence[Shard]:
    return manifest.splits["train"]


@pytest.fixture
def store(manifest: Manifest, tmp_path: Path) -> Counted:
    return Counted(tmp_path / "shards", tmp_path / "log")


def _held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_shard_is_fetched_once_and_is_what_it_was(shards: Sequence[Shard], store: Counted, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**9)
    for _ in range(3):
        for shard in shards:
            held = cache.take(shard, store)
            for file in shard.files:
                assert (held.folder / file.name).read_bytes() == (tmp_path / "shards" / file.name).read_bytes()
            held.close()
    assert len(_lines(tmp_path / "log")) == 2 * len(shards)


def test_it_stays_within_its_bytes_and_keeps_the_newest(
    shards: Sequence[Shard], store: Counted, tmp_path: Path
) -> None:
    limit = 3 * max(shard.bytes for shard in shards)
    cache = ShardCache(tmp_path / "cache", limit)
    for number in np.random.default_rng(0).integers(0, len(shards), 100):
        cache.take(shards[number], store).close()
        assert _held_bytes(tmp_path / "cache") <= limit
    for shard in shards[:3]:
        cache.take(shard, store).close()
    before = len(_lines(tmp_path / "log"))
    cache.take(shards[2], store).close()
    assert len(_lines(tmp_path / "log")) == before, "the newest was evicted"
    cache.take(shards[3], store).close()
    assert len(_lines(tmp_path / "log")) == before + 2, "the negative control: another one is fetched"


def test_what_is_open_is_never_evicted(
    shards: Sequence[Shard], store: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_PATIENCE", 0.2)
    cache = ShardCache(tmp_path / "cache", 2 * max(shard.bytes for shard in shards))
    first, second = (cache.take(shard, store) for shard in shards[:2])
    with pytest.raises(CacheFull, match="no room") as caught:
        ShardCache(tmp_path / "cache", 2 * max(shard.bytes for shard in shards)).bring(shards[2], store, patience=0.2)
    assert "cache_bytes" in caught.value.remedy
    assert first.folder.is_dir() and second.folder.is_dir()
    first.close()
    cache.take(shards[2], store).close()
    assert second.folder.is_dir() and not first.folder.is_dir()
    second.close()


def test_processes_share_it(shards: Sequence[Shard], store: Counted, tmp_path: Path) -> None:
    """Three processes want every shard at once: each is fetched once, and each reads the right bytes."""
    context = multiprocessing.get_context("spawn")
    slow = Counted(tmp_path / "shards", tmp_path / "log", slow=0.01)
    given = (tmp_path / "cache", 10**9, slow, shards)
    processes = [context.Process(target=_take_all, args=(*given, seed)) for seed in range(3)]
    _run(processes)
    assert sorted(line.split()[1] for line in _lines(tmp_path / "log")) == sorted(
        file.name for shard in shards for file in shard.files
    )


def test_processes_share_a_small_one(shards: Sequence[Shard], store: Counted, tmp_path: Path) -> None:
    """Two processes, room for three shards: somebody always waits, nobody reads what is half there."""
    context = multiprocessing.get_context("spawn")
    limit = 3 * max(shard.bytes for shard in shards)
    given = (tmp_path / "cache", limit, store, shards)
    processes = [context.Process(target=_take_all, args=(*given, seed)) for seed in range(2)]
    _run(processes)
    assert _held_bytes(tmp_path / "cache") <= limit


def test_a_killed_download_leaves_nothing_in_the_way(shards: Sequence[Shard], store: Counted, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    slow = Counted(tmp_path / "shards", tmp_path / "log", slow=60)
    process = context.Process(target=_take_all, args=(tmp_path / "cache", 10**9, slow, shards[:1], 0))
    process.start()
    end = time.monotonic() + 60
    while not list((tmp_path / "cache").glob(".*.part")) and time.monotonic() < end:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list((tmp_path / "cache").glob(".*.part"))
    limit = max(shard.bytes for shard in shards[:2])
    cache = ShardCache(tmp_path / "cache", limit)
    cache.take(shards[1], store).close()  # another shard: what was reserved by the dead one is free again
    assert not list((tmp_path / "cache").glob(".*.part"))
    cache.take(shards[0], store).close()


def test_what_comes_spoilt_is_fetched_again_and_then_named(
    shards: Sequence[Shard], store: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_PAUSE", 0.0)
    store.spoilt = 2
    told: list[events.Event] = []
    cache = ShardCache(tmp_path / "cache", 10**9)
    with events.listening(told.append):
        held = cache.take(shards[0], store)
    assert [event.kind for event in told] == ["shard-fetched-again"] * 2
    name = shards[0].files[0].name
    assert (held.folder / name).read_bytes() == (tmp_path / "shards" / name).read_bytes()
    held.close()
    store.spoilt = 3
    with pytest.raises(ModelwrightError, match="its hash is not") as caught:
        cache.take(shards[1], store)
    assert "train-00001" in caught.value.where and "data check" in caught.value.remedy
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_a_removed_cache_is_made_again(shards: Sequence[Shard], store: Counted, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**9)
    cache.take(shards[0], store).close()
    shutil.rmtree(tmp_path / "cache")
    cache.take(shards[0], store).close()


def _take_all(folder: Path, limit: int, store: Counted, shards: Sequence[Shard], seed: int) -> None:
    cache = ShardCache(folder, limit)
    for number in np.random.default_rng(seed).permutation(len(shards)).tolist():
        held = cache.take(shards[number], store)
        for file in shards[number].files:
            assert (held.folder / file.name).read_bytes() == (store.folder / file.name).read_bytes()  # type: ignore[operator]
        held.close()


def _run(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)
