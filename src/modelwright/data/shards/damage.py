"""Damage: which files of a folder of shards are missing, cut short or altered, and the note that says so."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from modelwright.base.errors import ModelwrightError
from modelwright.data.shards.manifest import File, Manifest
from modelwright.data.shards.store import NotThere, Store

NOTE = "quarantine.json"
FORMAT = 1
_READERS = 8


@dataclass(frozen=True, order=True)
class Damage:
    """One file that is not what it was.

    Attributes:
        shard: the shard it belongs to; empty for a file of the tokenizer, which nothing can do without.
        file: its name.
        reason: what is wrong, in words that follow "is".
    """

    shard: str
    file: str
    reason: str

    def error(self, store: Store, remedy: str) -> ModelwrightError:
        """The damage as an error that names the path."""
        what = f"the shard {self.shard}" if self.shard else "the tokenizer of the shards"
        return ModelwrightError(f"{what} is damaged: {self.reason}", where=store.place(self.file), remedy=remedy)


def wrong_sizes(manifest: Manifest, sizes: dict[str, int]) -> list[Damage]:
    """Files that are missing or of another size, without reading any."""
    found = []
    for shard, file in _owned(manifest):
        size = sizes.get(file.name)
        if size is None:
            found.append(Damage(shard, file.name, "the file is missing"))
        elif size != file.bytes:
            found.append(Damage(shard, file.name, f"the file has {size} bytes and was written with {file.bytes}"))
    return found


def wrong_hashes(
    manifest: Manifest, store: Store, left_out: Iterable[Damage] = (), advance: Callable[[int], None] = lambda _: None
) -> list[Damage]:
    """Files whose hash is another, all of them read; several at once.

    Args:
        manifest: what they should be.
        store: where they are.
        left_out: damage that is known already.
        advance: called with the bytes of each file that was read.

    Raises:
        ModelwrightError: the store cannot be reached.
    """
    known = {damage.file for damage in left_out}
    owned = [(shard, file) for shard, file in _owned(manifest) if file.name not in known]
    found = []
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        try:
            for (shard, file), reason in zip(
                owned, pool.map(lambda each: _altered(store, each[1]), owned), strict=True
            ):
                advance(file.bytes)
                if reason:
                    found.append(Damage(shard, file.name, reason))
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def note_of(manifest_content: bytes, damages: Sequence[Damage]) -> bytes:
    """The content of ``quarantine.json``: damage of the folder whose manifest has these bytes."""
    told = {
        "format": FORMAT,
        "manifest": hashlib.sha256(manifest_content).hexdigest(),
        "damaged": [asdict(damage) for damage in sorted(damages)],
    }
    return (json.dumps(told, indent=2) + "\n").encode()


def noted(content: bytes, manifest_content: bytes, place: str) -> list[Damage]:
    """The damage that a ``quarantine.json`` names.

    Raises:
        ModelwrightError: it is malformed, or speaks of another manifest.
    """
    try:
        told = json.loads(content)
        damages = [Damage(str(each["shard"]), str(each["file"]), str(each["reason"])) for each in told["damaged"]]
        manifest = told["manifest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelwrightError("the note of damaged shards is malformed", where=place, remedy=_AGAIN) from error
    if not all(text.isprintable() for each in damages for text in (each.shard, each.file, each.reason)):
        raise ModelwrightError("the note of damaged shards holds control characters", where=place, remedy=_AGAIN)
    if manifest != hashlib.sha256(manifest_content).hexdigest():
        raise ModelwrightError("the note of damaged shards speaks of another manifest", where=place, remedy=_AGAIN)
    return damages


def shards_of(damages: Iterable[Damage]) -> frozenset[str]:
    """Names of the shards that are damaged."""
    return frozenset(damage.shard for damage in damages if damage.shard)


_AGAIN = "write it again:  modelwright data check FOLDER --quarantine"


def _owned(manifest: Manifest) -> Iterator[tuple[str, File]]:
    yield from (("", file) for file in manifest.tokenizer_files)
    yield from ((shard.name, file) for _, shard in manifest.shards for file in shard.files)


def _altered(store: Store, file: File) -> str:
    try:
        found = store.digest(file.name)
    except NotThere:
        return "the file is missing"
    return "" if found == file.sha256 else "the file was altered: its hash is not the one it was written with"
