"""Token shards as data: a folder that ``modelwright data build`` wrote, here or in an object store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from modelwright.base import events
from modelwright.base.errors import ModelwrightError, raise_all
from modelwright.base.files import read_json, write_json
from modelwright.base.units import Bytes, bytes_text
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import HASHED_BYTES, read_manifest, write_manifest
from modelwright.data.shards.cache import ShardCache
from modelwright.data.shards.damage import NOTE, Damage, noted, shards_of, wrong_hashes, wrong_sizes
from modelwright.data.shards.manifest import NAME, Manifest, Shard, parse, windows_of
from modelwright.data.shards.opening import DecodedDocuments, Opening
from modelwright.data.shards.store import Store, open_store
from modelwright.data.shards.tokenizer import Kept, load_tokenizer
from modelwright.data.texts.windows import Packing, check_packing

_COPY = "shards.json"
_DAMAGE = "damage.json"
_CACHE = "shard-cache"
_POLICIES = ("stop", "quarantine")


@dataclass(frozen=True, kw_only=True)
class TokenShards:
    """Windows of tokens from shards that ``modelwright data build`` wrote; no window crosses from shard to shard.

    A folder is mapped where it lies. From a URL whole shards are downloaded into a bounded cache, a few at a time:
    the order then permutes shards, and windows among ``shuffle_shards`` of them, which is no global shuffle.

    Every start looks at all sizes. A folder's hashes are compared once for each state of its files (up to 2 GiB; with
    ``quarantine`` however large it is), those of a download always.

    Attributes:
        path: the folder, or its URL such as ``s3://bucket/folder``.
        context: tokens in one window.
        held_out_stride: tokens from one held-out window to the next; ``None``: ``context``.
        documents: ``joined``: windows run on from one document to the next, and tokens see the one before;
            ``separate``: tokens see their own document only, and positions begin anew in each.
        on_damage: ``stop`` refuses damaged shards. ``quarantine`` leaves them out: their samples become holes in the
            order, and nothing else moves. Of a URL, those that ``data check --quarantine`` found are left out.
        shuffle_shards: shards whose windows are shuffled together; ``None``: 8 from a URL, all from a folder.
        cache: where downloads are kept; ``None``: beside the prepared data.
        cache_bytes: how large that may become.
    """

    path: str
    context: int = 256
    held_out_stride: int | None = None
    documents: Packing = "joined"
    on_damage: Literal["stop", "quarantine"] = "stop"
    shuffle_shards: int | None = None
    cache: str | None = None
    cache_bytes: Bytes = 16 * 2**30

    def __post_init__(self) -> None:
        check_packing(self.documents)
        if not self.path:
            raise ModelwrightError("no folder of shards is named", where="path", remedy="path: FOLDER or s3://...")
        if self.context < 1:
            raise ModelwrightError(f"a context of {self.context} tokens is none", where="context")
        if self.held_out_stride is not None and not 1 <= self.held_out_stride <= self.context:
            raise ModelwrightError(
                f"a stride of {self.held_out_stride} leaves tokens out of windows of {self.context}",
                where="held_out_stride",
                remedy="choose 1 <= held_out_stride <= context",
            )
        if self.on_damage not in _POLICIES:
            raise ModelwrightError(
                f"on_damage is {self.on_damage!r}", where="on_damage", remedy=f"choose {' or '.join(_POLICIES)}"
            )
        if self.shuffle_shards is not None and self.shuffle_shards < 1:
            raise ModelwrightError(f"{self.shuffle_shards} shards cannot be shuffled", where="shuffle_shards")

    @property
    def tokenizer(self) -> Kept:
        """Loads the tokenizer that a run has kept: it comes with the shards, not with the recipe."""
        return Kept()

    def prepare(self, cache: Path) -> Path:
        """Look for damage; note what is left out, and keep manifest and tokenizer. Returns the folder of these notes.

        Its name follows from the manifest and the damage, and every rank that opens it leaves out the same.

        Raises:
            ModelwrightError: no shards, damaged ones with ``stop``, or a store that cannot be reached.
        """
        store = open_store(self.path)
        content = store.read(NAME)
        manifest = parse(content, store.place(NAME))
        damages = self._damages(store, manifest, content, cache)
        self._judge(store, manifest, damages)
        key = hashlib.sha256(content + json.dumps([asdict(damage) for damage in damages]).encode()).hexdigest()
        build = partial(_write_notes, store=store, content=content, manifest=manifest, damages=damages)
        return build_once(cache / f"token-shards-{key[:16]}", build)

    def open(self, folder: Path) -> Splits:
        """Open what :meth:`prepare` noted; shards are opened when they are first read.

        Raises:
            ModelwrightError: a note is damaged, a shard has changed since, or the context is longer than the shards.
        """
        read_manifest(folder)
        store = open_store(self.path)
        manifest = parse((folder / _COPY).read_bytes(), str(folder / _COPY))
        left_out = shards_of(Damage(**each) for each in read_json(folder / _DAMAGE))
        self._check_unchanged(store, manifest, left_out, folder.parent)
        tokenizer = load_tokenizer(manifest, folder)
        opening = self._opening(store, folder)
        train = opening.train(manifest.splits["train"], left_out)
        shards = [shard for shard in manifest.splits["held_out"] if shard.name not in left_out]
        stride = self.held_out_stride or self.context
        if not shards and manifest.splits["held_out"]:
            events.emit("nothing-held-out", "every held-out shard is left out: nothing is scored", level="warning")
        held_out, documents = None, None
        if any(windows_of(shard.tokens, self.context, stride) for shard in shards):
            held_out = opening.held_out(shards, stride, tokenizer)
            documents = DecodedDocuments(shards, opening, tokenizer) if tokenizer is not None else None
        return Splits(train, held_out, {"vocabulary": manifest.vocabulary}, tokenizer, documents)

    def _opening(self, store: Store, folder: Path) -> Opening:
        place = Path(self.cache).expanduser() if self.cache is not None else folder.parent / _CACHE
        return Opening(
            store=store,
            cache=ShardCache(place, self.cache_bytes),
            cache_bytes=self.cache_bytes,
            context=self.context,
            documents=self.documents,
            together=self.shuffle_shards,
        )

    def _damages(self, store: Store, manifest: Manifest, content: bytes, cache: Path) -> list[Damage]:
        sizes = store.sizes()
        found = wrong_sizes(manifest, sizes)
        if NOTE in sizes:
            known = {damage.file for damage in found}
            note = noted(store.read(NOTE), content, store.place(NOTE))
            found += [damage for damage in note if damage.file not in known]
        if store.folder is not None:
            found += self._altered(store, store.folder, manifest, found, cache)
        return sorted(found)

    def _altered(
        self, store: Store, folder: Path, manifest: Manifest, found: list[Damage], cache: Path
    ) -> list[Damage]:
        """Wrong hashes of a folder; compared once for each state of its files."""
        total = sum(file.bytes for file in manifest.files)
        if total > HASHED_BYTES and self.on_damage == "stop":
            _tell_unchecked(self.path, total)
            return []
        known = {damage.file for damage in found}
        files = [file for file in manifest.files if file.name not in known]
        told = [[file.sha256, *_stamp(folder.resolve() / file.name)] for file in files]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()

        def compare(temporary: Path) -> None:
            altered = wrong_hashes(manifest, store, found)
            write_json(temporary / _DAMAGE, [asdict(damage) for damage in altered])

        checked = build_once(cache / f"shards-checked-{key[:16]}", compare)
        return [Damage(**each) for each in read_json(checked / _DAMAGE)]

    def _judge(self, store: Store, manifest: Manifest, damages: Sequence[Damage]) -> None:
        fatal = [damage for damage in damages if self.on_damage == "stop" or not damage.shard]
        restore = f"restore the file; to compare all:  modelwright data check {self.path}"
        leave_out = "; or leave its samples out:  on_damage: quarantine"
        raise_all([damage.error(store, restore + (leave_out if damage.shard else "")) for damage in fatal])
        by_shard = {damage.shard: damage for damage in reversed(damages)}
        for split, shard in manifest.shards:
            if shard.name in by_shard:
                self._tell_left_out(store, split, shard, by_shard[shard.name])

    def _tell_left_out(self, store: Store, split: str, shard: Shard, damage: Damage) -> None:
        stride = None if split == "train" else self.held_out_stride or self.context
        lost = windows_of(shard.tokens, self.context, stride)
        events.emit(
            "shard-quarantined",
            f"{store.place(damage.file)} is damaged: {damage.reason}; {lost} samples of {split} are left out",
            level="warning",
            shard=shard.name,
            path=store.place(damage.file),
            reason=damage.reason,
            samples=lost,
        )

    def _check_unchanged(self, store: Store, manifest: Manifest, left_out: frozenset[str], cache: Path) -> None:
        """Of a folder: sizes always; hashes where a file is not the one that was compared before."""
        if store.folder is None:
            return
        found = [each for each in wrong_sizes(manifest, store.sizes()) if each.shard and each.shard not in left_out]
        if not found:
            gone = [Damage(s.name, f.name, "") for _, s in manifest.shards if s.name in left_out for f in s.files]
            found = [each for each in self._altered(store, store.folder, manifest, gone, cache) if each.shard]
        raise_all([damage.error(store, "restore the file; it was whole when the run began") for damage in found])


def _stamp(path: Path) -> list[object]:
    """What tells one state of a file from another, without reading it."""
    try:
        stat = path.stat()
    except OSError:
        return [str(path), -1, -1]  # a tokenizer's file may be gone: the run has a copy
    return [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _write_notes(folder: Path, *, store: Store, content: bytes, manifest: Manifest, damages: Sequence[Damage]) -> None:
    (folder / _COPY).write_bytes(content)
    for file in manifest.tokenizer_files:
        found = store.read(file.name)
        if hashlib.sha256(found).hexdigest() != file.sha256:
            damage = Damage("", file.name, "its hash is not the one it was written with")
            raise damage.error(store, "restore the file")
        (folder / file.name).write_bytes(found)
    write_json(folder / _DAMAGE, [asdict(damage) for damage in damages])
    write_manifest(folder, {"vocabulary": manifest.vocabulary})


def _tell_unchecked(path: str, total: int) -> None:
    events.emit(
        "hashes-not-checked",
        f"{bytes_text(total)} of shards have the right sizes; comparing their hashes would take long."
        f" To do so:  modelwright data check {path}",
        folder=path,
        bytes=total,
    )
