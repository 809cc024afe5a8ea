"""Checkpoints in an fsspec store: ``s3://bucket/runs``, ``memory://``, a folder of another disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import make_folder, speaking
from modelwright.runs.weights import BEST, is_checkpoint, step_of
from modelwright.training.checkpoints.keeping import MANIFEST, Score, best_names, score_in, superfluous
from modelwright.training.checkpoints.writing import flush_folder

try:
    from fsspec.core import url_to_fs
except ImportError as error:
    raise MissingExtra("store", "a store for checkpoints") from error

_MARK = "run.json"
_CHUNK = 2**22
_REMEDY = "look at the address, the network and the permissions; or leave saving.to out"


class RemoteStore:
    """Checkpoints of one run in a folder of an fsspec file system.

    Args:
        url: of the folder.

    Raises:
        ModelwrightError: no such kind of store.
        MissingExtra: what talks to it is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._files, self._base = url_to_fs(url)
        except ImportError as error:
            raise MissingExtra("store", f"the store {url}") from error
        except Exception as error:
            raise self._unreachable(error) from error

    def where(self, name: str = "") -> str:
        """The address of a checkpoint, or of all."""
        return f"{self._url}/{name}" if name else self._url

    def check(self) -> None:
        """Write and remove a small file.

        Raises:
            ModelwrightError: that is not possible.
        """
        with self._reached():
            self._files.makedirs(self._base, exist_ok=True)
            self._files.pipe_file(f"{self._base}/.writable", b"")
            self._files.rm_file(f"{self._base}/.writable")

    def names(self) -> list[str]:
        """Of the checkpoints that are there, whole or not, newest first."""
        with self._reached():
            self._files.invalidate_cache()
            try:
                paths = self._files.ls(self._base, detail=False)
            except FileNotFoundError:
                return []
        found = [PurePosixPath(str(path).rstrip("/")).name for path in paths]
        return sorted((name for name in found if is_checkpoint(name)), key=step_of, reverse=True)

    def has(self, path: Path) -> bool:
        """Whether this very checkpoint is there, whole: the manifest comes last and has the hash of every file."""
        with speaking(path):
            ours = (path / MANIFEST).read_bytes()
        return self._read(f"{self._base}/{path.name}/{MANIFEST}") == ours

    def mark(self) -> dict[str, Any]:
        """Whose checkpoints they are, as it was written there; empty where nothing was."""
        found = self._json(f"{self._base}/{_MARK}")
        return found if isinstance(found, dict) else {}

    def set_mark(self, mark: Mapping[str, Any]) -> None:
        """Write down whose checkpoints they are."""
        with self._reached():
            self._files.makedirs(self._base, exist_ok=True)
            self._files.pipe_file(f"{self._base}/{_MARK}", json.dumps(mark, indent=2).encode())

    def upload(self, path: Path) -> None:
        """Copy a checkpoint, its manifest last; and ``best.json`` from beside it."""
        remote = f"{self._base}/{path.name}"
        files = [file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file()]
        with self._reached():
            self._remove(f"{remote}/{MANIFEST}")  # of an earlier one of this name
            for name in sorted(files, key=lambda name: name == MANIFEST):
                self._files.makedirs(str(PurePosixPath(remote, name).parent), exist_ok=True)
                self._files.put_file(str(path / name), f"{remote}/{name}")
            if (path.parent / BEST).exists():
                self._files.put_file(str(path.parent / BEST), f"{self._base}/{BEST}")

    def keep(self, newest: str, keep: int, keep_best: int) -> list[str]:
        """Remove all but the newest and the best, manifests first."""
        names = [name for name in self.names() if step_of(name) <= step_of(newest)]  # later ones may be whole
        dropped = superfluous(names, newest, keep, best_names({name: self._score(name) for name in names}, keep_best))
        with self._reached():
            for name in dropped:
                self._remove(f"{self._base}/{name}/{MANIFEST}")
                self._files.rm(f"{self._base}/{name}", recursive=True)
            if keep_best == 0:
                self._remove(f"{self._base}/{BEST}")
        return dropped

    def download(self, name: str, folder: Path) -> str | None:
        """Copy a checkpoint into ``folder`` and compare it with its hashes on the way.

        Returns:
            What is wrong with it; ``None`` where it lies complete in ``folder`` now.
        """
        partial, target = folder / f".{name}.part", folder / name
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        try:
            damage = self._download(name, partial)
            if damage is None:
                with speaking(target):
                    shutil.rmtree(target, ignore_errors=True)
                    partial.rename(target)
                    flush_folder(folder)
            return damage
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download(self, name: str, partial: Path) -> str | None:
        text = self._read(f"{self._base}/{name}/{MANIFEST}")
        if text is None:
            return "it has no manifest: its copying did not come to its end"
        files = _listed(text)
        if files is None:
            return "its manifest is not readable"
        for file, expected in files.items():
            if damage := self._fetch(name, file, expected, partial / file):
                return damage
        with speaking(partial):
            (partial / MANIFEST).write_bytes(text)
        return None

    def _fetch(self, name: str, file: str, expected: dict[str, Any], target: Path) -> str | None:
        digest, size = hashlib.sha256(), 0
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._reached():
            try:
                source = self._files.open(f"{self._base}/{name}/{file}", "rb")
            except FileNotFoundError:
                return f"{file} is missing"
            with source, _writing(target) as copy:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    copy.write(chunk)
        if size != expected["bytes"]:
            return f"{file} has {size} bytes instead of {expected['bytes']}"
        return None if digest.hexdigest() == expected["sha256"] else f"{file} differs from its hash"

    def _score(self, name: str) -> Score | None:
        manifest = self._json(f"{self._base}/{name}/{MANIFEST}")
        return score_in(manifest) if isinstance(manifest, dict) else None

    def _json(self, path: str) -> Any:
        """``None`` where there is none, or it is not readable."""
        try:
            return json.loads(self._read(path) or b"null")
        except ValueError:
            return None

    def _read(self, path: str) -> bytes | None:
        with self._reached():
            try:
                return bytes(self._files.cat_file(path))
            except FileNotFoundError:
                return None

    def _remove(self, path: str) -> None:
        if self._files.exists(path):
            self._files.rm_file(path)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except ModelwrightError:
            raise
        except Exception as error:  # each store has kinds of its own
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ModelwrightError:
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        return ModelwrightError(f"the store does not work: {told}", where=self._url, remedy=_REMEDY)


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    with speaking(path), path.open("wb") as file:
        yield file


def _listed(text: bytes) -> dict[str, dict[str, Any]] | None:
    """The files of a manifest; none of them may lie outside of its folder."""
    try:
        files: dict[str, dict[str, Any]] = json.loads(text)["files"]
        inside = all(not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in files)
        complete = all({"bytes", "sha256"} <= expected.keys() for expected in files.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if inside and complete else None
