from __future__ import annotations

import importlib
import linecache
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.data.batches import read
from modelwright.data.manifest import verify
from modelwright.data.texts.indexed import Indexed
from modelwright.data.texts.python_stdlib import PythonStdlib
from modelwright.data.texts.text_files import TextFiles
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    for number in range(10):
        (folder / "deep" / f"{number}.txt").write_text(f"note number {number}, " * (20 + number), "utf-8")
    return folder


def _data(folder: Path, **fields: Any) -> TextFiles:
    settings: dict[str, Any] = {"files": ("**/*.txt",), "context": 8, "tokenizer": Byte(), "held_out": 0.2}
    return TextFiles(root=str(folder), **(settings | fields))


def test_documents_begin_with_the_end_of_text(notes: Path, tmp_path: Path) -> None:
    folder = _data(notes).prepare(tmp_path / "cache")
    train = Indexed(folder / "train")
    assert all(train.tokens[start] == 256 for start in train.document_starts)
    assert (train.tokens == 256).sum() == len(train)


def test_the_split_is_by_file_and_loses_nothing(notes: Path, tmp_path: Path) -> None:
    data = _data(notes)
    folder = data.prepare(tmp_path / "cache")
    splits = data.open(folder)
    assert splits.documents is not None
    held_out = dict(splits.documents)
    train = Indexed(folder / "train")
    learnt = {bytes(train.document(number)[1:].astype(np.uint8)) for number in range(len(train))}
    files = {path.relative_to(notes).as_posix(): path.read_bytes() for path in notes.rglob("*.txt")}
    assert held_out == {name: files[name] for name in held_out}
    assert learnt == {text for name, text in files.items() if name not in held_out}


def test_the_tokenizer_learns_from_training_files_only(notes: Path, tmp_path: Path) -> None:
    data = _data(notes, tokenizer=Bpe(vocabulary=300))
    splits = data.open(data.prepare(tmp_path / "one"))
    assert splits.documents is not None and splits.tokenizer is not None
    for name, _ in splits.documents:
        (notes / name).write_text("zyzyzyzyzy " * 50, "utf-8")
    other = data.open(data.prepare(tmp_path / "two")).tokenizer
    assert other is not None
    text = b"note number zyzyzy"
    assert other.encode(text).tolist() == splits.tokenizer.encode(text).tolist()


def test_what_is_asked_for_chooses_the_folder(notes: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = _data(notes)
    folder = data.prepare(cache)
    assert replace(data, context=16, held_out_stride=2).prepare(cache) == folder  # windows need no new tokens
    others = [replace(data, held_out=0.3), replace(data, seed=1), replace(data, tokenizer=Bpe())]
    assert len({folder, *(other.prepare(cache) for other in others)}) == 4
    (notes / "deep" / "0.txt").write_text("changed", "utf-8")
    assert data.prepare(cache) != folder


def test_the_code_of_a_tokenizer_chooses_the_folder(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, data = tmp_path / "cache", _data(notes, tokenizer=Bpe(vocabulary=300))
    folder = data.prepare(cache)
    assert data.prepare(cache) == folder
    monkeypatch.setattr(Bpe, "library", "tokenizers 99")
    assert data.prepare(cache) != folder


def test_the_source_of_a_foreign_tokenizer_chooses_the_folder(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from dataclasses import dataclass
from modelwright.data.tokenizers.byte import Byte
@dataclass(frozen=True, kw_only=True)
class Own(Byte):
    pass
"""
    monkeypatch.syspath_prepend(tmp_path)
    folders = set()
    for line in ("", "# another version"):
        (tmp_path / "own_tokenizer.py").write_text(source + line, "utf-8")
        monkeypatch.delitem(sys.modules, "own_tokenizer", raising=False)
        linecache.clearcache()
        importlib.invalidate_caches()
        own = importlib.import_module("own_tokenizer").Own()
        folders |= {_data(notes, tokenizer=own).prepare(tmp_path / "cache") for _ in range(2)}
    assert len(folders) == 2


def test_held_out_windows_see_the_end_of_the_document_before(notes: Path, tmp_path: Path) -> None:
    """What the documentation says: a border is marked, it is no clean start."""
    data = _data(notes, held_out=0.5)
    folder = data.prepare(tmp_path / "cache")
    indexed = Indexed(folder / "held_out")
    window = int(indexed.document_starts[1]) // 8
    splits = data.open(folder)
    assert splits.held_out is not None
    seen = read(splits.held_out, [window])["inputs"][0].tolist()
    assert seen == indexed.tokens[window * 8 : window * 8 + 8].tolist()
    assert 256 in seen[1:]


@pytest.mark.parametrize("stride", [None, 3])
def test_separate_documents_are_told_and_scored_alike(stride: int | None, notes: Path, tmp_path: Path) -> None:
    data = _data(notes, held_out=0.5, held_out_stride=stride)
    separate = replace(data, documents="separate")
    folder = data.prepare(tmp_path / "cache")
    assert separate.prepare(tmp_path / "cache") == folder  # the same tokens
    splits, plain = separate.open(folder), data.open(folder)
    assert splits.held_out is not None and plain.held_out is not None and splits.documents is not None
    for dataset, other in ((splits.train, plain.train), (splits.held_out, plain.held_out)):
        everything = np.arange(len(dataset))
        batch, joined = read(dataset, everything), read(other, everything)
        assert set(batch) - set(joined) == {"segments", "positions"}
        assert all(torch.equal(batch[name], joined[name]) for name in joined)
        assert int((batch["segments"][:, -1]).max()) > 0
    assert int(batch["bytes"].sum()) == sum(len(text) for _, text in splits.documents)


def test_empty_files_and_copies_are_left_out_and_told(notes: Path, tmp_path: Path) -> None:
    (notes / "empty.txt").touch()
    (notes / "same.txt").write_bytes((notes / "deep" / "3.txt").read_bytes())
    told: list[events.Event] = []
    with events.listening(told.append):
        _data(notes).prepare(tmp_path / "cache")
    skipped, prepared = told
    assert (skipped.kind, skipped.details["files"]) == ("documents-skipped", ["empty.txt", "same.txt"])
    assert prepared.kind == "data-prepared"
    assert sum(prepared.details["documents"].values()) == 10  # type: ignore[attr-defined]


def test_a_single_file_is_all_for_training(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only text " * 9, "utf-8")
    data = _data(tmp_path)
    told: list[events.Event] = []
    with events.listening(told.append):
        splits = data.open(data.prepare(tmp_path / "cache"))
    assert (splits.held_out, splits.documents) == (None, None)
    assert [event.kind for event in told] == ["nothing-held-out", "data-prepared"]


def test_bytes_stand_beside_held_out_tokens(notes: Path, tmp_path: Path) -> None:
    data = _data(notes, held_out_stride=3)
    splits = data.open(data.prepare(tmp_path / "cache"))
    assert splits.held_out is not None and splits.documents is not None
    batch = read(splits.held_out, np.arange(len(splits.held_out)))
    assert int(batch["bytes"].sum()) == sum(len(text) for _, text in splits.documents)
    assert set(read(splits.train, [0])) == {"inputs", "targets"}


@pytest.mark.parametrize("name", ["train.bin", "held_out.idx", "documents.json"])
def test_damage_is_named_and_mended_by_removing_the_folder(name: str, notes: Path, tmp_path: Path) -> None:
    data = _data(notes)
    folder = data.prepare(tmp_path / "cache")
    verify(folder)
    (folder / name).unlink()
    with pytest.raises(ModelwrightError, match="missing") as caught:
        data.open(folder)
    assert caught.value.where == str(folder / name)
    assert caught.value.remedy.startswith(f"remove the folder {folder}")


def test_no_match_names_pattern_and_folder(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _data(notes, files=("**/*.txt", "*.rst")).prepare(tmp_path / "cache")
    assert caught.value.what == f"no file matches '*.rst' in {notes}"


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ModelwrightError, match="no text to learn from"):
        _data(tmp_path).prepare(tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_named(notes: Path, tmp_path: Path) -> None:
    (notes / "deep" / "3.txt").chmod(0)
    with pytest.raises(ModelwrightError, match="Permission denied"):
        _data(notes).prepare(tmp_path / "cache")


def test_a_context_longer_than_the_text_is_refused(notes: Path, tmp_path: Path) -> None:
    data = _data(notes, context=10**6)
    with pytest.raises(ModelwrightError, match="context of 1000000 tokens is longer than the data of"):
        data.open(data.prepare(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"context": 0}, "context"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": -0.1}, "held_out"),
        ({"held_out_stride": 9}, "held_out_stride"),
        ({"documents": "apart"}, "documents"),
        ({"files": ()}, "files"),
        ({"tokenizer": "bpe"}, "tokenizer"),
        ({"tokenizer": Byte}, "tokenizer"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        _data(Path(), **fields)
    assert caught.value.where == where


def test_the_standard_library_is_there_without_its_tests() -> None:
    names = [name for name, _ in PythonStdlib().texts().files]
    assert {"abc.py", "json/decoder.py", "unittest/case.py"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]
