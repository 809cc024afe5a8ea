"""One shard, written: what the processes of a build do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.files import file_hash, write_json
from modelwright.data import Tokenizer
from modelwright.data.shards.manifest import File, Shard
from modelwright.data.texts.encoding import write_texts

PROGRESS = ".build"
"""Folder within the shards' own where a build notes what is finished."""

_state: dict[str, Tokenizer] = {}


@dataclass(frozen=True)
class Piece:
    """The texts of one shard.

    Attributes:
        name: of the shard.
        texts: in their order.
    """

    name: str
    texts: tuple[bytes, ...]

    @property
    def text_bytes(self) -> int:
        """Of all texts."""
        return sum(map(len, self.texts))


def write_shard(folder: Path, piece: Piece, tokenizer: Tokenizer) -> Shard:
    """Make tokens of the texts and write them; the note that says so comes last.

    Raises:
        ModelwrightError: the disk is full, or a text cannot be made tokens of.
    """
    prefix = folder / piece.name
    documents, tokens = write_texts(prefix, piece.texts, tokenizer)
    files = tuple(file_of(prefix.with_name(prefix.name + ending)) for ending in (".bin", ".idx"))
    shard = Shard(piece.name, documents, tokens, piece.text_bytes, files)
    write_json(folder / PROGRESS / f"{piece.name}.json", shard.to_json())
    return shard


def file_of(path: Path) -> File:
    """A file's size and hash."""
    return File(path.name, path.stat().st_size, file_hash(path))


def begin_worker(technique: Any, folder: Path) -> None:
    """Load the tokenizer once in this process, and end with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state["tokenizer"] = technique.load(folder)


def write_in_worker(folder: Path, piece: Piece) -> Shard:
    """:func:`write_shard` with this process' tokenizer."""
    return write_shard(folder, piece, _state["tokenizer"])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
