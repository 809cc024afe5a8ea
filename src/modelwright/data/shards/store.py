"""Where shards lie: a folder, or whatever fsspec reaches by a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash, replacing, speaking

STORES = Family("store", {"remote": "modelwright.data.shards.remote:RemoteStore"})


class NotThere(ModelwrightError):
    """A file of the store is missing."""


class Store(Protocol):
    """Files of one folder by name."""

    @property
    def folder(self) -> Path | None:
        """The folder, where files can be mapped as they lie."""
        ...

    def place(self, name: str) -> str:
        """Path or URL of a file, for messages."""
        ...

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file there is, with one look.

        Raises:
            ModelwrightError: the folder is missing, or cannot be reached.
        """
        ...

    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            NotThere: there is none.
            ModelwrightError: it cannot be read.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...

    def digest(self, name: str) -> str:
        """SHA-256 of a file, all of which is read."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file to ``to``."""
        ...


class LocalStore:
    """A folder of this machine.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Path | None = folder
        self._folder = folder

    def place(self, name: str) -> str:
        """Path of a file."""
        return str(self._folder / name)

    def sizes(self) -> dict[str, int]:
        """Name -> bytes."""
        try:
            return {path.name: path.stat().st_size for path in self._folder.iterdir() if path.is_file()}
        except OSError as error:
            raise ModelwrightError(
                f"the folder of shards cannot be read: {error.strerror or error}",
                where=str(self._folder),
                remedy="mend the path",
            ) from error

    def read(self, name: str) -> bytes:
        """A small file."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            what = "the file is missing" if self._folder.is_dir() else "there is no such folder, so its file is missing"
            raise NotThere(
                what,
                where=str(path),
                remedy="restore it, or name a folder that  modelwright data build  wrote",
            ) from error
        except OSError as error:
            raise ModelwrightError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with replacing(self._folder / name) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with speaking(self._folder / name):
            (self._folder / name).unlink(missing_ok=True)

    def digest(self, name: str) -> str:
        """SHA-256 of a file."""
        try:
            return file_hash(self._folder / name)
        except OSError as error:
            raise ModelwrightError(
                f"the file cannot be read: {error.strerror or error}", where=self.place(name)
            ) from error

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file."""
        with speaking(to):
            to.write_bytes(self.read(name))


def open_store(path: str) -> Store:
    """The store behind a path or a URL such as ``s3://bucket/folder``.

    Raises:
        MissingExtra: a URL needs an optional part.
        ModelwrightError: nothing reaches such a URL.
    """
    if path.startswith("file://"):
        return LocalStore(Path(path.removeprefix("file://")))
    if "://" not in path:
        return LocalStore(Path(path).expanduser())
    store: Store = STORES.resolve("remote")(path)
    return store
