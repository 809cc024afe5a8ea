"""Builds: the same bytes whoever writes them, and safe against being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.shards.made import HELD_OUT, alter, build, build_of, files_of, write_texts

from modelwright.base.errors import ModelwrightError
from modelwright.data.shards.assigning import assigned
from modelwright.data.shards.manifest import NAME, parse
from modelwright.data.texts.distinct import Document
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte

ROOT = Path(__file__).parents[3]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


def test_the_bytes_are_the_same_however_many_processes_write(texts: Path, tmp_path: Path) -> None:
    written = []
    for workers in (1, 2, 3):
        build(texts, tmp_path / str(workers), technique=Bpe(vocabulary=300), workers=workers)
        written.append(files_of(tmp_path / str(workers)))
    assert written[0] == written[1] == written[2]
    assert len([name for name in written[0] if name.endswith(".bin")]) > 4


@pytest.mark.parametrize("tokenizer", [Byte(), Bpe(vocabulary=300)])
def test_shards_hold_the_tokens_that_preparing_the_text_gives(
    texts: Path, tmp_path: Path, tokenizer: Byte | Bpe
) -> None:
    """The reference is the other way to tokens: one file for each split."""
    manifest = build(texts, tmp_path / "shards", technique=tokenizer)
    data = TextFiles(files=("*.txt",), root=str(texts), tokenizer=tokenizer, held_out=HELD_OUT)
    prepared = data.prepare(tmp_path / "cache")
    for split, shards in manifest.splits.items():
        whole = Indexed(prepared / split)
        parts = [Indexed(tmp_path / "shards" / shard.name) for shard in shards]
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
        assert sum(len(part) for part in parts) == len(whole) == sum(shard.documents for shard in shards)
        assert [len(part.tokens) for part in parts] == [shard.tokens for shard in shards]


def test_the_manifest_counts_what_is_there(texts: Path, tmp_path: Path) -> None:
    manifest = build(texts, tmp_path / "shards")
    read = parse((tmp_path / "shards" / NAME).read_bytes(), "here")
    assert read == manifest
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "shards").iterdir()}
    assert {file.name: file.bytes for file in manifest.files} == {n: s for n, s in sizes.items() if n != NAME}
    distinct = {path.read_bytes() for path in texts.iterdir()} - {b""}
    assert sum(shard.text_bytes for _, shard in manifest.shards) == sum(map(len, distinct))
    assert sum(shard.documents for _, shard in manifest.shards) == len(distinct)
    assert not (tmp_path / "shards" / ".build").exists()


def test_shards_are_of_about_equal_size(texts: Path, tmp_path: Path) -> None:
    manifest = build(texts, tmp_path / "shards", shard_bytes=3000)
    sizes = [shard.text_bytes for shard in manifest.splits["train"]]
    assert max(sizes) < 3000 + 800 and min(sizes) > 3000 - 1200  # the longest text has some 650 bytes


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 2000))
def test_documents_stay_in_order_and_shards_are_numbered_without_gaps(sizes: list[int], shard_bytes: int) -> None:
    documents = [Document(str(number), size, "") for number, size in enumerate(sizes)]
    places = assigned(documents, {"0"}, shard_bytes)
    for split, names in (("held_out", ["0"]), ("train", [str(number) for number in range(1, len(sizes))])):
        assert all(places[name][0] == split for name in names)
        numbers = [places[name][1] for name in names]
        assert numbers == sorted(numbers) and sorted(set(numbers)) == list(range(len(set(numbers))))


def test_a_build_that_is_started_again_keeps_what_is_whole(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    build(texts, folder)
    whole, times = files_of(folder), {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    alter(folder / "train-00001.bin")
    (folder / "held_out-00000.idx").unlink()
    build(texts, folder)
    assert files_of(folder) == whole
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert {name.partition(".")[0] for name in changed} == {"train-00001", "held_out-00000", "manifest"}


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    """Killed as soon as some shards are finished; the second process writes the others, and the bytes are right."""
    texts, folder = write_texts(tmp_path / "texts", count=250), tmp_path / "shards"
    script = f"""
import sys, time
from pathlib import Path
from tests.data.shards.made import build
from modelwright.data.shards import building
if __name__ == "__main__":
    slowly = building.write_shard
    def write(*given):
        time.sleep(0.02)
        return slowly(*given)
    building.write_shard = write
    build(Path({str(texts)!r}), Path({str(folder)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    end = time.monotonic() + 60
    while len(list((folder / ".build").glob("train-*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / NAME).exists()
    finished = sorted((folder / ".build").glob("*-*.json"))
    times = {path.stem: (folder / f"{path.stem}.bin").stat().st_mtime_ns for path in finished}
    build(texts, folder)
    build(texts, tmp_path / "undisturbed")
    assert files_of(folder) == files_of(tmp_path / "undisturbed")
    assert len(finished) < len(list(folder.glob("*.bin")))
    assert times == {name: (folder / f"{name}.bin").stat().st_mtime_ns for name in times}, (
        "a finished one was rewritten"
    )


def test_processes_end_with_a_build_that_is_killed(tmp_path: Path) -> None:
    texts, folder = write_texts(tmp_path / "texts", count=600), tmp_path / "shards"
    script = f"""
from pathlib import Path
from tests.data.shards.made import build
if __name__ == "__main__":
    build(Path({str(texts)!r}), Path({str(folder)!r}), workers=2, shard_bytes=300)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    end = time.monotonic() + 60
    while not list((folder / ".build").glob("train-*.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _in_session(process.pid):
        assert time.monotonic() < end, "a process of the build lives on"
        time.sleep(0.05)


def test_other_texts_and_settings_are_not_written_over(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    build(texts, folder)
    for fields in ({"shard_bytes": 500}, {"technique": Bpe(vocabulary=300)}, {"held_out": 0.5}):
        with pytest.raises(ModelwrightError, match="other texts, or of other settings"):
            build(texts, folder, **fields)
    (texts / "000.txt").write_text("another text")
    with pytest.raises(ModelwrightError, match="other texts"):
        build(texts, folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    with pytest.raises(ModelwrightError, match="something else"):
        build(texts, tmp_path / "full")


def test_addresses_are_not_taken_for_folders(texts: Path) -> None:
    with pytest.raises(ModelwrightError, match="not at the address 's3:/bucket/shards'") as caught:
        build_of(texts, Path("s3://bucket/shards"))
    assert caught.value.where == "--out"
    assert not Path("s3:").exists()


def test_a_full_disk_is_an_error_that_says_so(texts: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the operating system refuses in the same place."""
    script = f"""
import resource, sys
from pathlib import Path
from tests.data.shards.made import build
from modelwright.base.errors import ModelwrightError
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    try:
        build(Path({str(texts)!r}), Path({str(tmp_path / "shards")!r}), shard_bytes=8000)
    except ModelwrightError as error:
        sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout and "-00000.bin" in done.stdout, done.stderr
    assert not (tmp_path / "shards" / NAME).exists()
    build(texts, tmp_path / "shards", shard_bytes=8000)  # and it goes on where there is room


def test_a_text_that_changes_meanwhile_is_named(texts: Path, tmp_path: Path) -> None:
    def change(what: str, done: int, total: int) -> None:
        (texts / "030.txt").write_text(f"another {done}")

    with pytest.raises(ModelwrightError, match="changed while it was read") as caught:
        build_of(texts, tmp_path / "shards", technique=Bpe(vocabulary=300)).run(change)
    assert "030.txt" in caught.value.where


def test_a_tokenizer_that_nobody_else_has_is_refused(texts: Path, tmp_path: Path) -> None:
    class Own(Byte):
        pass

    with pytest.raises(ModelwrightError, match="none that everybody has"):
        build(texts, tmp_path / "shards", technique=Own())


def test_manifests_that_lead_elsewhere_are_refused(texts: Path, tmp_path: Path) -> None:
    build(texts, tmp_path / "shards")
    told = json.loads((tmp_path / "shards" / NAME).read_text())
    shard = told["splits"]["train"][0]
    shard["name"] = "../train-00000"
    shard["files"] = {f"../{name}": entry for name, entry in shard["files"].items()}
    with pytest.raises(ModelwrightError, match="malformed"):
        parse(json.dumps(told).encode(), "here")
    for broken in (b"", b"[]", b'{"format": 1, "kind": "other"}', b'{"format": 1, "kind": "token-shards"}'):
        with pytest.raises(ModelwrightError, match="cannot be used"):
            parse(broken, "here")
    with pytest.raises(ModelwrightError, match="newer modelwright"):
        parse(b'{"format": 2, "kind": "token-shards"}', "here")


def _in_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found
