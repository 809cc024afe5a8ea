"""Shards from texts, by several processes: the same bytes however many they are, and safe against being killed.

Texts are looked at once (sizes and hashes), which decides held-out documents and shards; read again to learn the
tokenizer; and read a last time, shard by shard, in this process, which hands whole shards to the others. A shard's
files have a temporary name until they are whole, then a note in ``.build`` says so, and the manifest comes last. A
build that is started again keeps every finished shard whose hashes are right.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelwright.base import events
from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.files import file_hash, make_folder, read_json, speaking, write_json
from modelwright.base.units import bytes_text
from modelwright.data import Tokenizer
from modelwright.data.shards.assigning import assigned
from modelwright.data.shards.damage import NOTE
from modelwright.data.shards.locking import Lock
from modelwright.data.shards.manifest import NAME, SPLITS, File, Manifest, Shard, parse, shard_of
from modelwright.data.shards.tokenizer import noted_settings
from modelwright.data.shards.writing import PROGRESS, Piece, begin_worker, file_of, write_in_worker, write_shard
from modelwright.data.texts.distinct import Distinct
from modelwright.data.texts.documents import Texts, held_out_names
from modelwright.data.tokenizers.tokenizing import tokenizer_settings

FORMAT = 1  # raise it when the same texts give other shards
_PLAN = "plan.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Advance = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of text are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What to build.

    Attributes:
        texts: the documents.
        technique: of the tokenizer; learns from the training documents only.
        held_out: part of the documents to judge by.
        seed: chooses which.
        folder: where shards are written.
        shard_bytes: text of one shard, about.
        workers: processes.
    """

    texts: Texts
    technique: Any
    held_out: float
    seed: int
    folder: Path
    shard_bytes: int
    workers: int

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise ModelwrightError(f"shards of {self.shard_bytes} bytes hold nothing", where="--shard-size")
        if self.workers < 1:
            raise ModelwrightError(f"{self.workers} processes cannot build", where="--workers")
        if len(self.folder.parts) > 1 and self.folder.parts[0].endswith(":"):  # a path keeps one slash of s3://bucket
            raise ModelwrightError(
                f"shards are built in a folder of this machine, not at the address '{self.folder}'",
                where="--out",
                remedy="build in a folder and copy all of it:  aws s3 cp --recursive FOLDER s3://BUCKET/FOLDER",
            )
        noted_settings(self.technique)

    def run(self, advance: Advance = lambda what, done, total: None) -> Manifest:
        """Build what is not there yet.

        Raises:
            ModelwrightError: no text, a text cannot be read, the folder holds other shards, or the disk is full.
            RunFailed: a process was killed.
        """
        make_folder(self.folder / PROGRESS)
        with _alone(self.folder):
            documents = Distinct(self.texts)
            documents.tell_skipped()
            size = documents.text_bytes
            events.emit("texts-found", f"{len(documents.names)} {documents.unit}, {bytes_text(size)}", bytes=size)
            return _Building(self, documents, advance).run()


class _Building:
    """One build, after the texts were looked at."""

    def __init__(self, build: Build, documents: Distinct, advance: Advance) -> None:
        self._build, self._folder, self._advance = build, build.folder, advance
        self._documents = documents
        held_out = held_out_names(documents.names, build.held_out, build.seed)
        self._places = assigned(list(documents.documents.values()), held_out, build.shard_bytes)
        self._total = documents.text_bytes
        self._done, self._shards = 0, len(set(self._places.values()))

    def run(self) -> Manifest:
        self._refuse_others()
        for leftover in self._folder.glob(".*.part"):  # of a build that was killed
            with speaking(leftover):
                leftover.unlink()
        tokenizer = self._tokenizer()
        finished = self._finished()
        self._written(sum(shard.text_bytes for shard in finished.values()))
        for shard in self._write(finished, tokenizer):
            finished[shard.name] = shard
            self._written(shard.text_bytes)
        manifest = self._manifest(finished, tokenizer)
        write_json(self._folder / NAME, manifest.to_json())
        for note in (self._folder / NOTE, self._progress):  # nothing is damaged or unfinished any more
            _remove(note)
        return manifest

    @cached_property
    def _key(self) -> str:
        """What decides the bytes of all shards."""
        build = self._build
        told = {"format": FORMAT, "tokenizer": tokenizer_settings(build.technique), "held_out": build.held_out}
        told |= {"seed": build.seed, "shard_bytes": build.shard_bytes}
        told["documents"] = [[name, document.sha256] for name, document in self._documents.documents.items()]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def _progress(self) -> Path:
        return self._folder / PROGRESS

    def _refuse_others(self) -> None:
        """Shards of other texts or settings are not overwritten."""
        known = None
        if self._before is not None:
            known = self._before.built.get("key")
        elif (self._progress / _PLAN).is_file():
            known = read_json(self._progress / _PLAN).get("key")
        if known is not None and known != self._key:
            self._leave()
            raise ModelwrightError(
                "the folder holds shards of other texts, or of other settings",
                where=str(self._folder),
                remedy="choose another folder for --out, or remove this one",
            )
        if known is None and any(path.name != PROGRESS for path in self._folder.iterdir()):
            self._leave()
            raise ModelwrightError(
                "the folder holds something else", where=str(self._folder), remedy="choose an empty one for --out"
            )
        write_json(self._progress / _PLAN, {"key": self._key})

    def _leave(self) -> None:
        """Leave a folder that is not ours as it was found."""
        if not (self._progress / _PLAN).is_file():
            _remove(self._progress)

    def _tokenizer(self) -> Tokenizer:
        """Loaded as it was learnt; learnt anew where it is not whole."""
        note = self._progress / "tokenizer.json"
        hashes = read_json(note) if note.is_file() else self._hashes_before()
        if hashes is not None and all(_is(self._folder / name, digest) for name, digest in hashes.items()):
            loaded: Tokenizer = self._build.technique.load(self._folder)
            return loaded
        learnt: Tokenizer = self._build.technique.train(self._training_texts())
        learnt.save(self._folder)
        write_json(note, {file.name: file.sha256 for file in self._tokenizer_files()})
        return learnt

    def _hashes_before(self) -> dict[str, str] | None:
        if self._before is None:
            return None
        return {file.name: file.sha256 for file in self._before.tokenizer_files}

    @cached_property
    def _before(self) -> Manifest | None:
        """The manifest of an earlier build that came to its end."""
        path = self._folder / NAME
        return parse(path.read_bytes(), str(path)) if path.is_file() else None

    def _training_texts(self) -> Iterator[bytes]:
        done = 0
        for name, text in self._documents.read(self._documents.names):
            done += len(text)
            self._advance("learn the tokenizer", done, self._total)
            if self._places[name][0] == "train":
                yield text

    def _finished(self) -> dict[str, Shard]:
        """Shards that are there and whole."""
        notes = [shard_of(read_json(path)) for path in sorted(self._progress.glob("*-*.json"))]
        if self._before is not None:
            notes = [shard for _, shard in self._before.shards] + notes
        return {shard.name: shard for shard in notes if self._whole(shard)}

    def _whole(self, shard: Shard) -> bool:
        return all(_is(self._folder / file.name, file.sha256) for file in shard.files)

    def _written(self, text_bytes: int) -> None:
        self._done += text_bytes
        self._advance("write shards", self._done, self._total)

    def _write(self, finished: Mapping[str, Shard], tokenizer: Tokenizer) -> Iterator[Shard]:
        pieces = self._pieces(finished)
        if self._build.workers == 1:
            return (write_shard(self._folder, piece, tokenizer) for piece in pieces)
        return self._write_together(pieces)

    def _pieces(self, finished: Mapping[str, Shard]) -> Iterator[Piece]:
        """The texts of each shard that is not finished, when the last of them was read."""
        missing = Counter(_name(*place) for place in self._places.values())
        waiting: dict[str, list[bytes]] = {}
        for name in finished:
            missing.pop(name, None)
        if not missing:
            return
        for name, text in self._documents.read(self._documents.names):
            shard = _name(*self._places[name])
            if shard not in missing:
                continue
            waiting.setdefault(shard, []).append(text)
            if len(waiting[shard]) == missing[shard]:
                yield Piece(shard, tuple(waiting.pop(shard)))

    def _write_together(self, pieces: Iterator[Piece]) -> Iterator[Shard]:
        """At most one shard for each process waits, so memory is bounded."""
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of this process
        technique = self._build.technique
        running: set[Future[Shard]] = set()
        pool = ProcessPoolExecutor(
            min(self._build.workers, self._shards),
            context,
            initializer=begin_worker,
            initargs=(technique, self._folder),
        )
        try:
            for piece in pieces:
                running.add(pool.submit(write_in_worker, self._folder, piece))
                if len(running) > self._build.workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in running)
        except BrokenProcessPool as error:
            raise RunFailed(
                "a process that makes tokens was killed, perhaps for want of memory",
                where=str(self._folder),
                remedy="start again: finished shards are kept; fewer --workers or smaller shards take less memory",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _manifest(self, finished: Mapping[str, Shard], tokenizer: Tokenizer) -> Manifest:
        numbers = sorted(set(self._places.values()))
        splits = {split: tuple(finished[_name(*place)] for place in numbers if place[0] == split) for split in SPLITS}
        build = self._build
        built = {"key": self._key, "shard_bytes": build.shard_bytes, "held_out": build.held_out, "seed": build.seed}
        return Manifest(tokenizer.vocabulary, splits, noted_settings(build.technique), self._tokenizer_files(), built)

    def _tokenizer_files(self) -> tuple[File, ...]:
        paths = [self._folder / name for name in _TOKENIZER_FILES]
        return tuple(file_of(path) for path in paths if path.is_file())


def _remove(path: Path) -> None:
    with speaking(path):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05}"


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        lock = Lock(folder / PROGRESS / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ModelwrightError(
            "another process builds here", where=str(folder), remedy="wait for it, or choose another folder"
        ) from error
    with lock:
        yield
