"""Shards from object stores: a real S3-compatible server, its failures, and a bounded cache."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.shards import s3
from tests.data.shards.made import alter, build, write_texts

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data import SAMPLING
from modelwright.data.batches import read
from modelwright.data.loader import Loader
from modelwright.data.shards import cache as caching
from modelwright.data.shards.manifest import NAME, parse, total_bytes
from modelwright.data.shards.store import open_store
from modelwright.data.shards.token_shards import TokenShards

fsspec = pytest.importorskip("fsspec")
URL = "memory://bucket/shards"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(write_texts(folder / "texts", count=120), folder / "shards")
    return folder / "shards"


@pytest.fixture
def memory(whole: Path) -> Any:
    files = fsspec.filesystem("memory")
    files.store.clear()
    _put(files, whole, "/bucket/shards")
    return files


def _put(files: Any, folder: Path, to: str) -> None:
    for path in folder.iterdir():
        files.pipe_file(f"{to}/{path.name}", path.read_bytes())


def _opened(data: TokenShards, cache: Path) -> Any:
    return data.open(data.prepare(cache))


def _held_bytes(folder: Path) -> int:
    """What lies in the cache, while a thread may bring and remove shards."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def test_a_stream_gives_the_samples_of_the_folder(memory: Any, whole: Path, tmp_path: Path) -> None:
    streamed = _opened(TokenShards(path=URL, context=16, held_out_stride=4), tmp_path / "one")
    local = _opened(TokenShards(path=str(whole), context=16, held_out_stride=4), tmp_path / "two")
    for split in ("train", "held_out"):
        theirs, ours = getattr(local, split), getattr(streamed, split)
        everything = np.random.default_rng(0).permutation(len(theirs))
        assert len(theirs) == len(ours)
        for name, value in read(theirs, everything).items():
            assert torch.equal(read(ours, everything)[name], value)
    assert list(streamed.documents) == list(local.documents)
    assert streamed.tokenizer.decode(streamed.tokenizer.encode(b"deep")) == b"deep"


def test_the_cache_stays_bounded_and_each_shard_is_fetched_once_in_an_epoch(
    memory: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = parse((whole / NAME).read_bytes(), "")
    shards = manifest.splits["train"]
    largest = max(shard.bytes for shard in shards)
    limit = 8 * largest
    assert limit < total_bytes(shards) / 1.5
    fetched: list[str] = []
    real = memory.__class__.get_file
    monkeypatch.setattr(
        memory.__class__,
        "get_file",
        lambda self, path, to, **more: fetched.append(path) or real(self, path, to, **more),
    )
    data = TokenShards(path=URL, context=16, shuffle_shards=3, cache=str(tmp_path / "kept"), cache_bytes=limit)
    train = _opened(data, tmp_path / "cache").train
    order = SAMPLING.resolve("global")().order(train, batch=8, seed=0)
    seen = []
    for begin in range(0, len(train), 8):
        indices = order(np.arange(begin, min(begin + 8, len(train))))
        read(train, indices)
        seen += indices.tolist()
        assert _held_bytes(tmp_path / "kept") <= limit
    assert sorted(seen) == list(range(len(train)))
    names = [path.rpartition("/")[2] for path in fetched if path.endswith(".bin")]
    assert all(names.count(f"{shard.name}.bin") == 1 for shard in shards if shard.name + ".bin" not in names[-6:])


def test_a_shuffle_of_everything_reads_far_more(memory: Any, whole: Path, tmp_path: Path) -> None:
    """The negative control: with a cache this small, a global permutation would fetch shards again and again."""
    train = _opened(TokenShards(path=URL, context=16, shuffle_shards=3), tmp_path).train
    ends = np.cumsum(train._counts)
    grouped = SAMPLING.resolve("global")().order(train, batch=8, seed=0)(np.arange(64))
    permuted = np.random.default_rng(0).permutation(len(train))[:64]
    touched = [len(np.unique(np.searchsorted(ends, indices, side="right"))) for indices in (grouped, permuted)]
    assert touched[0] <= 3 < touched[1]


def test_a_cache_too_small_for_two_groups_is_refused(memory: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="too small") as caught:
        _opened(TokenShards(path=URL, context=16, cache_bytes=20_000), tmp_path)
    assert caught.value.where == "cache_bytes"


def test_missing_and_cut_objects_are_found_at_the_start(memory: Any, tmp_path: Path) -> None:
    path = "/bucket/shards/train-00003.bin"
    content = memory.cat_file(path)
    for damage, words in ((None, "missing"), (content[:-1], "was written with")):
        memory.rm_file(path) if damage is None else memory.pipe_file(path, damage)
        with pytest.raises(ModelwrightError, match=words) as caught:
            TokenShards(path=URL, context=16).prepare(tmp_path)
        assert caught.value.where == f"{URL}/train-00003.bin"
        left = _opened(TokenShards(path=URL, context=16, on_damage="quarantine"), tmp_path).train
        assert (~left.present(np.arange(len(left)))).any()


def test_a_wrong_hash_is_an_error_when_it_is_read_and_can_be_noted(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_PAUSE", 0.0)
    path = "/bucket/shards/train-00003.bin"
    content = memory.cat_file(path)
    memory.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    data = TokenShards(path=URL, context=16, on_damage="quarantine")
    train = _opened(data, tmp_path / "one").train
    with pytest.raises(ModelwrightError, match="its hash is not") as caught:
        read(train, np.arange(len(train)))
    assert caught.value.where == f"{URL}/train-00003.bin" and "data check" in caught.value.remedy
    check = pytest.importorskip("modelwright.app.data.check").check
    console = pytest.importorskip("rich.console").Console(quiet=True)
    facts = check(URL, quarantine=True, console=console)
    assert [row["path"] for row in facts["damaged"]] == [f"{URL}/train-00003.bin"]
    train = _opened(data, tmp_path / "two").train
    present = train.present(np.arange(len(train)))
    assert not present.all()
    read(train, np.flatnonzero(present))
    with pytest.raises(ModelwrightError, match="its hash is not"):
        TokenShards(path=URL, context=16).prepare(tmp_path / "three")
    memory.pipe_file(path, content)
    assert check(URL, quarantine=True, console=console)["damaged"] == []
    assert _opened(data, tmp_path / "four").train.present(np.arange(len(train))).all()


def test_an_address_that_nothing_reaches_is_named() -> None:
    with pytest.raises(ModelwrightError, match="nothing here reaches"):
        open_store("nosuch://bucket/folder").read(NAME)
    with pytest.raises(ModelwrightError, match="missing"):
        open_store("memory://nobody/here").read(NAME)


def test_a_stream_travels_to_processes_that_read(memory: Any, tmp_path: Path) -> None:
    train = _opened(TokenShards(path=URL, context=16), tmp_path).train
    read(train, [0, 1])
    other = pickle.loads(pickle.dumps(train))  # noqa: S301
    assert torch.equal(read(other, [5, 700])["inputs"], read(train, [5, 700])["inputs"])


# --- S3


@pytest.fixture(scope="module")
def port(whole: Path) -> Iterator[int]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3.server() as port:
        files = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{port}", key="testing", secret="testing")
        files.mkdir("bucket")
        _put(files, whole, "bucket/shards")
        yield port


@pytest.fixture
def proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    proxy = s3.Proxy(port)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(caching, "_PAUSE", 0.01)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield proxy
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    proxy.close()


S3 = "s3://bucket/shards"


def test_s3_streams_what_the_folder_holds(proxy: s3.Proxy, whole: Path, tmp_path: Path) -> None:
    data = TokenShards(path=S3, context=16, shuffle_shards=3, cache_bytes=200_000)
    train = _opened(data, tmp_path / "one").train
    local = _opened(TokenShards(path=str(whole), context=16), tmp_path / "two").train
    order = SAMPLING.resolve("global")().order(train, batch=8, seed=0)
    steps = list(Loader(train, order, batch=8, micro_batch=8, steps=12))
    for number, (batch,) in enumerate(steps):
        indices = order(np.arange(8 * number, 8 * number + 8))
        assert torch.equal(batch["inputs"], read(local, indices)["inputs"])


def test_s3_connections_that_are_cut_are_made_again(proxy: s3.Proxy, whole: Path, tmp_path: Path) -> None:
    train = _opened(TokenShards(path=S3, context=16), tmp_path / "one").train
    local = _opened(TokenShards(path=str(whole), context=16), tmp_path / "two").train
    proxy.cuts = 2
    assert torch.equal(read(train, np.arange(40))["inputs"], read(local, np.arange(40))["inputs"])
    assert proxy.was_cut == 2


def test_s3_that_is_cut_for_good_is_named(proxy: s3.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = _opened(TokenShards(path=S3, context=16), tmp_path).train
    proxy.cuts, proxy.after = 10**6, 10
    monkeypatch.setattr(caching, "_TRIES", 2)
    told: list[events.Event] = []
    with events.listening(told.append), pytest.raises(ModelwrightError, match="the store cannot be read") as caught:
        read(train, [0])
    assert caught.value.where == f"{S3}/train-00000.bin"
    assert {event.kind for event in told} == {"shard-fetched-again"}


def test_s3_that_is_gone_is_named(proxy: s3.Proxy, tmp_path: Path) -> None:
    proxy.close()
    with pytest.raises(ModelwrightError, match="the store cannot be read") as caught:
        TokenShards(path=S3, context=16).prepare(tmp_path)
    assert caught.value.where == f"{S3}/{NAME}"


def test_s3_objects_that_are_missing_cut_or_altered_are_named(proxy: s3.Proxy, whole: Path, tmp_path: Path) -> None:
    files = fsspec.filesystem("s3")
    _put(files, whole, "bucket/mine")
    mine = TokenShards(path="s3://bucket/mine", context=16)
    key, content = "bucket/mine/train-00002.bin", (whole / "train-00002.bin").read_bytes()
    files.rm_file(key)
    with pytest.raises(ModelwrightError, match="the file is missing") as caught:
        mine.prepare(tmp_path)
    assert caught.value.where == f"s3://{key}"
    files.pipe_file(key, content[:-10])
    with pytest.raises(ModelwrightError, match="was written with") as caught:
        mine.prepare(tmp_path)
    assert caught.value.where == f"s3://{key}"
    alter(_written(tmp_path / "altered.bin", content))
    files.put_file(str(tmp_path / "altered.bin"), key)
    train, later = (_opened(mine, tmp_path / name).train for name in ("one", "two"))
    with pytest.raises(ModelwrightError, match="its hash is not") as caught:
        read(train, np.arange(len(train)))
    assert caught.value.where == f"s3://{key}"
    files.rm_file("bucket/mine/train-00001.bin")  # after the start
    with pytest.raises(ModelwrightError, match="missing from the store") as caught:
        read(later, np.arange(len(later)))
    assert caught.value.where == "s3://bucket/mine/train-00001.bin"


def test_s3_that_refuses_access_says_so(proxy: s3.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ModelwrightError, match="refuses access") as caught:
        TokenShards(path=S3, context=16).prepare(tmp_path)
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
