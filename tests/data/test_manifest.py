from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.manifest import NAME, check, read_manifest, verify, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(b"abcd")
    (tmp_path / "b.bin").write_bytes(b"")
    write_manifest(tmp_path, {"tokens": 4})
    return tmp_path


def test_sound_folders_pass(folder: Path) -> None:
    verify(folder)
    manifest = read_manifest(folder)
    assert (manifest["format"], manifest["tokens"]) == (1, 4)
    assert manifest["files"]["a.bin"] == {"bytes": 4, "sha256": hashlib.sha256(b"abcd").hexdigest()}


@pytest.mark.parametrize(("content", "what"), [(None, "missing"), (b"abc", "has 3 bytes and was written with 4")])
def test_missing_and_cut_files_are_seen_on_opening(folder: Path, content: bytes | None, what: str) -> None:
    path = folder / "a.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelwrightError, match=what) as caught:
        read_manifest(folder)
    assert caught.value.where == str(path)
    assert f"remove the folder {folder}" in caught.value.remedy


def test_altered_files_are_seen_by_verify_only(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"abcX")
    read_manifest(folder)
    with pytest.raises(ModelwrightError, match="altered") as caught:
        verify(folder)
    assert caught.value.where == str(folder / "a.bin")


@pytest.mark.parametrize(("limit", "reads"), [(4, True), (3, False)])
def test_large_folders_are_checked_by_size_and_that_is_told(limit: int, reads: bool, folder: Path) -> None:
    told: list[events.Event] = []
    with events.listening(told.append):
        check(folder, limit)
        (folder / "a.bin").write_bytes(b"abcX")
        with pytest.raises(ModelwrightError, match="altered") if reads else nullcontext():
            check(folder, limit)
        (folder / "a.bin").write_bytes(b"abc")
        with pytest.raises(ModelwrightError, match="3 bytes"):
            check(folder, limit)
    assert {event.kind for event in told} == (set() if reads else {"hashes-not-checked"})
    assert all(str(folder) in event.message for event in told)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format": 1}', '{"format": "x", "files": {}}'])
def test_damaged_manifests_are_named(folder: Path, text: str | None) -> None:
    (folder / NAME).unlink()
    if text is not None:
        (folder / NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ModelwrightError, match="manifest is missing or damaged"):
        read_manifest(folder)


def test_newer_manifests_ask_for_an_upgrade(folder: Path) -> None:
    (folder / NAME).write_text(json.dumps({"format": 99, "files": {}}), encoding="utf-8")
    with pytest.raises(ModelwrightError, match="newer modelwright"):
        read_manifest(folder)
