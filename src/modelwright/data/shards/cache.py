"""A bounded cache of downloaded shards, shared by all processes of a machine.

A shard is a folder named by its hashes. Whoever reads it holds a shared lock on the file beside it, whoever brings or
removes it an exclusive one; locks end with their process. A shard is downloaded under a temporary name, which says how
much room it takes, compared with its hashes, and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash, make_folder, speaking
from modelwright.base.units import bytes_text
from modelwright.data.shards.locking import Lock
from modelwright.data.shards.manifest import File, Shard
from modelwright.data.shards.store import NotThere, Store

_TRIES = 3
_PAUSE = 0.5  # seconds before the second try, twice as many before the third
_PATIENCE = 60.0  # seconds to wait for others to close their shards
_POLL = 0.1
_ROOM = ".room.lock"


class CacheFull(ModelwrightError):
    """All that the cache may hold is being read."""


@dataclass(frozen=True)
class Held:
    """A shard that stays where it is until it is closed.

    Attributes:
        folder: holds its files.
        lock: upon it, shared.
    """

    folder: Path
    lock: Lock

    def close(self) -> None:
        """Let it be evicted."""
        self.lock.close()


class ShardCache:
    """Downloaded shards in a folder of at most ``limit`` bytes, the least recently opened evicted first.

    Args:
        folder: the cache; several data sets and processes may share it.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._checked: set[str] = set()

    def take(self, shard: Shard, store: Store) -> Held:
        """The shard, downloaded if need be; nobody evicts it before it is closed.

        Raises:
            ModelwrightError: it cannot be had, or what came is not what the manifest says; names the URL.
            CacheFull: others read all that is there, for longer than a minute.
        """
        make_folder(self._folder)
        key = _key(shard)
        while True:
            lock = Lock(self._lock(key), fcntl.LOCK_SH)
            if (self._folder / key).is_dir():
                self._check(key, shard)
                with suppress(OSError):  # it only makes the shard younger
                    os.utime(self._folder / key)
                return Held(self._folder / key, lock)
            lock.close()
            self.bring(shard, store)

    def bring(self, shard: Shard, store: Store, patience: float = _PATIENCE) -> None:
        """Download a shard that is not there.

        Raises:
            ModelwrightError: as :meth:`take`.
        """
        make_folder(self._folder)
        key = _key(shard)
        with Lock(self._lock(key), fcntl.LOCK_EX):
            if (self._folder / key).is_dir():
                return
            with self._room(key, shard.bytes, patience) as temporary:
                for file in shard.files:
                    _fetch(file, store, temporary / file.name)
                with Lock(self._folder / _ROOM, fcntl.LOCK_EX), speaking(temporary):
                    temporary.rename(self._folder / key)
                self._checked.add(key)

    def _check(self, key: str, shard: Shard) -> None:
        """Compare hashes of what an earlier process downloaded, once in this one."""
        if key in self._checked:
            return
        for file in shard.files:
            path = self._folder / key / file.name
            if not path.is_file() or path.stat().st_size != file.bytes or file_hash(path) != file.sha256:
                raise ModelwrightError(
                    "a downloaded shard was altered in the cache",
                    where=str(path),
                    remedy=f"remove the folder {path.parent}; it is fetched again",
                )
        self._checked.add(key)

    @contextmanager
    def _room(self, key: str, need: int, patience: float) -> Iterator[Path]:
        """A temporary folder whose name reserves room for ``need`` bytes."""
        temporary = self._folder / f".{key}.{need}.part"
        end = time.monotonic() + patience
        while not self._reserve(temporary, key, need):
            if time.monotonic() >= end:
                raise CacheFull(
                    f"the cache of {bytes_text(self._limit)} has no room for a shard of {bytes_text(need)}:"
                    " what it holds is being read",
                    where=str(self._folder),
                    remedy="raise cache_bytes, lower shuffle_shards, or give each run a cache of its own",
                )
            time.sleep(_POLL)
        try:
            yield temporary
        finally:
            with Lock(self._folder / _ROOM, fcntl.LOCK_EX):  # under it nothing comes or goes while others count
                shutil.rmtree(temporary, ignore_errors=True)

    def _reserve(self, temporary: Path, key: str, need: int) -> bool:
        with Lock(self._folder / _ROOM, fcntl.LOCK_EX):
            for leftover in self._folder.glob(f".{key}.*.part"):  # of one that was killed: the lock is ours
                shutil.rmtree(leftover, ignore_errors=True)
            if not self._evict(need):
                return False
            make_folder(temporary)
            return True

    def _evict(self, need: int) -> bool:
        """Remove shards that nobody reads until ``need`` bytes fit, the oldest first."""
        held = sorted((path.stat().st_mtime_ns, path) for path in self._folder.iterdir() if path.is_dir())
        sizes = {path: _size(path) for _, path in held}
        total = sum(sizes.values())
        for _, path in held:
            if total + need <= self._limit:
                break
            if self._remove(path):
                total -= sizes[path]
        return total + need <= self._limit

    def _remove(self, path: Path) -> bool:
        key = path.name.lstrip(".").partition(".")[0]
        try:
            lock = Lock(self._lock(key), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with lock:
            shutil.rmtree(path, ignore_errors=True)
        return True

    def _lock(self, key: str) -> Path:
        return self._folder / f"{key}.lock"


def _fetch(file: File, store: Store, to: Path) -> None:
    """Download a file and compare its hash; what may be a fault of the way is tried again."""
    for number in range(_TRIES):
        try:
            store.fetch(file.name, to)
            return _check(file, store, to)
        except NotThere:
            raise
        except ModelwrightError as error:
            if number == _TRIES - 1:
                raise
            events.emit("shard-fetched-again", f"{error.what}; it is fetched again", path=store.place(file.name))
            time.sleep(_PAUSE * 2**number)


def _check(file: File, store: Store, to: Path) -> None:
    found = to.stat().st_size
    if found != file.bytes:
        what = f"{found} bytes came, and it was written with {file.bytes}"
    elif file_hash(to) != file.sha256:
        what = "its hash is not the one it was written with"
    else:
        return
    folder = store.place("").rstrip("/")
    raise ModelwrightError(
        f"a shard is damaged: {what}",
        where=store.place(file.name),
        remedy=f"restore it; or note it:  modelwright data check {folder} --quarantine  and set on_damage: quarantine",
    )


def _key(shard: Shard) -> str:
    """A name that follows from the content."""
    return hashlib.sha256("".join(file.name + file.sha256 for file in shard.files).encode()).hexdigest()[:32]


def _size(path: Path) -> int:
    """Of a shard; one that is on its way says in its name how large it will be."""
    if path.name.startswith("."):
        return int(path.name.rpartition(".part")[0].rpartition(".")[2])
    return sum(file.stat().st_size for file in path.iterdir())
