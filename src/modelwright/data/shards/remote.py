"""Object stores, through fsspec: S3 and its like, GCS, Azure, HTTP."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError
from modelwright.base.files import speaking
from modelwright.data.shards.store import NotThere

try:
    from fsspec.core import url_to_fs
except ImportError as error:
    raise MissingExtra("store", "reading shards by a URL") from error

_OF_THIS_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_DENIED = ("credential", "denied", "forbidden", "unauthorized", "signature", "accesskey")


class RemoteStore:
    """Files below a URL. Credentials come from the environment, as the store's own library reads them.

    Args:
        url: such as ``s3://bucket/folder``.
    """

    folder: Path | None = None

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_url": self._url, "_opened": None}

    def place(self, name: str) -> str:
        """URL of a file."""
        return f"{self._url}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name -> bytes."""
        with _reached(self._url):
            files, root = self._files()
            files.invalidate_cache()
            listed = files.ls(root, detail=True)
        entries = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry for entry in listed}
        return {name: int(entry["size"]) for name, entry in entries.items() if entry["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A small file."""
        with _reached(self.place(name)):
            files, root = self._files()
            return bytes(files.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; stores put an object whole or not at all."""
        with _reached(self.place(name)):
            files, root = self._files()
            files.pipe_file(f"{root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _reached(self.place(name)):
            files, root = self._files()
            files.rm_file(f"{root}/{name}")

    def digest(self, name: str) -> str:
        """SHA-256 of a file, streamed."""
        with _reached(self.place(name)):
            files, root = self._files()
            with files.open(f"{root}/{name}", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    def fetch(self, name: str, to: Path) -> None:
        """Download a file."""
        with _reached(self.place(name), to):
            files, root = self._files()
            files.get_file(f"{root}/{name}", str(to))

    def _files(self) -> tuple[Any, str]:
        """The file system, made anew in each process: its connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            files, root = url_to_fs(self._url)
            self._opened = (os.getpid(), files, str(root).rstrip("/"))
        return self._opened[1], self._opened[2]


@contextmanager
def _reached(place: str, to: Path | None = None) -> Iterator[None]:
    """Turn whatever a store's library raises into errors that name the file."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra("store", f"reading {place}") from error
    except FileNotFoundError as error:
        raise NotThere(
            "the object is missing from the store", where=place, remedy="put it back, or mend the path"
        ) from error
    except Exception as error:
        if to is not None and isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
            with speaking(to):
                raise
        raise _unreachable(place, error) from error


def _unreachable(place: str, error: Exception) -> ModelwrightError:
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, ValueError) and "rotocol" in text:
        return ModelwrightError(f"nothing here reaches such a URL: {error}", where=place, remedy="s3://BUCKET/FOLDER")
    if isinstance(error, PermissionError) or any(word in text.lower() for word in _DENIED):
        return ModelwrightError(
            f"the store refuses access: {text}",
            where=place,
            remedy="credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
        )
    return ModelwrightError(
        f"the store cannot be read: {text}",
        where=place,
        remedy="look after the network and the address, and start again",
    )
