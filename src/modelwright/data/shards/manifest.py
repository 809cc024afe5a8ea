"""The manifest of a folder of token shards: what is where, how large, and with which hash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelwright.base.errors import ModelwrightError
from modelwright.base.heap import uncollected

FORMAT = 1
KIND = "token-shards"
NAME = "manifest.json"
SPLITS = ("train", "held_out")
_LEADS = frozenset("/\\\0")


class File(NamedTuple):
    """One file as it was written.

    Attributes:
        name: within the folder; never a path.
        bytes: its size.
        sha256: its hash, in hexadecimal digits.
    """

    name: str
    bytes: int
    sha256: str


class Shard(NamedTuple):
    """Whole documents of tokens, as ``NAME.bin`` and ``NAME.idx`` (:mod:`modelwright.data.texts.indexed`).

    Attributes:
        name: of its files, without their endings.
        documents: how many there are.
        tokens: of all documents together, the end of text that begins each among them.
        text_bytes: of the documents as they were.
        files: both of them.
    """

    name: str
    documents: int
    tokens: int
    text_bytes: int
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The entry in the manifest."""
        files = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in self.files}
        numbers = {"documents": self.documents, "tokens": self.tokens, "text_bytes": self.text_bytes}
        return {"name": self.name, **numbers, "files": files}


@dataclass(frozen=True)
class Manifest:
    """A folder of shards.

    Attributes:
        vocabulary: how many tokens there are.
        splits: ``train`` and ``held_out``, each with its shards in order.
        tokenizer: settings of the listed tokenizer that made the tokens, ``{"use": name, ...}``; empty if unknown.
        tokenizer_files: what it is loaded from.
        built: how the folder was made; a build that goes on compares it.
    """

    vocabulary: int
    splits: Mapping[str, tuple[Shard, ...]]
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_files: tuple[File, ...] = ()
    built: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> Iterator[tuple[str, Shard]]:
        """Each shard after the name of its split."""
        return ((split, shard) for split, shards in self.splits.items() for shard in shards)

    @property
    def files(self) -> Iterator[File]:
        """All files, those of the tokenizer first."""
        yield from self.tokenizer_files
        yield from (file for _, shard in self.shards for file in shard.files)

    def to_json(self) -> dict[str, Any]:
        """What ``manifest.json`` holds."""
        hashes = {file.name: file.sha256 for file in self.tokenizer_files}
        return {
            "format": FORMAT,
            "kind": KIND,
            "vocabulary": self.vocabulary,
            "tokenizer": hashes.get("tokenizer.json"),
            "tokenizer_settings": dict(self.tokenizer),
            "tokenizer_files": {
                file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in self.tokenizer_files
            },
            "built": dict(self.built),
            "splits": {split: [shard.to_json() for shard in shards] for split, shards in self.splits.items()},
        }


@uncollected()
def parse(content: bytes, place: str) -> Manifest:
    """The manifest in the bytes of a ``manifest.json``.

    Args:
        content: of the file.
        place: where it lies, for messages.

    Raises:
        ModelwrightError: it is damaged, of another kind, or of a newer version.
    """
    try:
        told = json.loads(content)
        kind, version = told["kind"], int(told["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_manifest(place, "it is no manifest of token shards") from error
    if kind != KIND:
        raise _no_manifest(place, f"it tells of {kind!r}, not of {KIND}")
    if version > FORMAT:
        raise ModelwrightError(
            "these shards were built by a newer modelwright", where=place, remedy="upgrade: pip install -U modelwright"
        )
    try:
        manifest = _manifest(told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_manifest(place, f"an entry is malformed ({type(error).__name__}: {error})") from error
    if manifest.vocabulary < 1 or not manifest.splits.get("train"):
        raise _no_manifest(place, "there are no shards to learn from")
    return manifest


def shard_of(entry: Mapping[str, Any]) -> Shard:
    """A shard from its entry in a manifest."""
    name, entries = _plain(entry["name"]), entry["files"]
    if entries.keys() != {f"{name}.bin", f"{name}.idx"}:
        raise ValueError(f"the files of '{name}' are not its .bin and .idx")
    files = tuple(_file(file, told) for file, told in entries.items())
    return Shard(name, int(entry["documents"]), int(entry["tokens"]), int(entry["text_bytes"]), files)


def windows_of(tokens: int, context: int, stride: int | None = None) -> int:
    """How many windows a shard holds, as :class:`modelwright.data.texts.windows.TokenWindows` cuts them."""
    targets = max(0, tokens - 1)
    if stride is None:
        return targets // context
    return 0 if targets == 0 else 1 + -(-max(0, targets - context) // stride)


def total_bytes(shards: Sequence[Shard]) -> int:
    """Of several shards, on disk."""
    return sum(shard.bytes for shard in shards)


def _manifest(told: Mapping[str, Any]) -> Manifest:
    splits = {split: tuple(map(shard_of, told["splits"].get(split, ()))) for split in SPLITS}
    files = _files(told.get("tokenizer_files") or {})
    if not files and told.get("tokenizer"):
        raise ValueError("tokenizer_files are missing")
    settings, built = dict(told.get("tokenizer_settings") or {}), dict(told.get("built") or {})
    if not all(str(part).isprintable() for entry in settings.items() for part in entry):
        raise ValueError("the tokenizer's settings hold control characters")
    manifest = Manifest(int(told["vocabulary"]), splits, settings, files, built)
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise ValueError("two files have one name")
    return manifest


def _files(entries: Mapping[str, Mapping[str, Any]]) -> tuple[File, ...]:
    return tuple(_file(_plain(name), entry) for name, entry in entries.items())


def _file(name: str, entry: Mapping[str, Any]) -> File:
    return File(name, int(entry["bytes"]), str(entry["sha256"]))


def _plain(name: object) -> str:
    """A name that leads nowhere else: a manifest may come from a stranger."""
    text = str(name)
    if not text or text in {".", ".."} or not _LEADS.isdisjoint(text) or not text.isprintable():
        raise ValueError(f"{text!r} is no plain name of a file")
    return text


def _no_manifest(place: str, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"the manifest cannot be used: {what}",
        where=place,
        remedy="name a folder that  modelwright data build  wrote, or build it again",
    )
