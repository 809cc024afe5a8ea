"""Manifest: what a prepared folder holds, so that damage is named before it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import file_hash, read_json, write_json
from modelwright.base.units import bytes_text

FORMAT = 1
HASHED_BYTES = 2 * 1024**3
NAME = "manifest.json"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """List the files of ``folder`` with their sizes and hashes beside ``facts``, in ``manifest.json``."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.iterdir())
        if path.name != NAME
    }
    write_json(folder / NAME, {"format": FORMAT, **facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of ``folder``, after a look at the sizes of its files.

    Raises:
        ModelwrightError: it is missing, newer than this version, or a file is missing or of another size.
    """
    path = folder / NAME
    try:
        manifest: dict[str, Any] = read_json(path)
        version, files = int(manifest["format"]), dict(manifest["files"])
    except (ModelwrightError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "the manifest is missing or damaged") from error
    if version > FORMAT:
        raise ModelwrightError(
            "this data was prepared by a newer modelwright",
            where=str(path),
            remedy="upgrade: pip install -U modelwright",
        )
    for name, entry in files.items():
        _check_size(folder / name, int(entry["bytes"]))
    return manifest


def verify(folder: Path) -> None:
    """Read every file of a prepared folder and compare its hash.

    Raises:
        ModelwrightError: names the first file that is missing, cut short or altered.
    """
    for name, entry in read_manifest(folder)["files"].items():
        if file_hash(folder / name) != entry["sha256"]:
            raise _damaged(folder / name, "the file was altered: its hash is not the one it was written with")


def check(folder: Path, limit: int = HASHED_BYTES) -> None:
    """What :func:`verify` does, for a folder of up to ``limit`` bytes; of a larger one the sizes, which is told.

    Raises:
        ModelwrightError: names the first file that is missing, cut short or altered.
    """
    total = sum(int(entry["bytes"]) for entry in read_manifest(folder)["files"].values())
    if total <= limit:
        verify(folder)
        return
    command = f"from modelwright.data.manifest import *; verify(Path({str(folder)!r}))"
    events.emit(
        "hashes-not-checked",
        f"{bytes_text(total)} of prepared data have the right sizes; comparing their hashes would take long."
        f' To do so: python -c "{command}"',
        folder=str(folder),
        bytes=total,
    )


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    if (found := path.stat().st_size) != expected:
        raise _damaged(path, f"the file has {found} bytes and was written with {expected}")


def _damaged(path: Path, what: str) -> ModelwrightError:
    return ModelwrightError(
        f"prepared data is damaged: {what}",
        where=str(path),
        remedy=f"remove the folder {path.parent}; it is made again when it is needed",
    )
