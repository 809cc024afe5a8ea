"""Writing: a folder of safetensors and JSON with a manifest of hashes, complete or not there at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelwright.base.files import make_folder, replacing, speaking, write_json
from modelwright.base.tensor_file import write_tensors
from modelwright.training.checkpoints.keeping import Score
from modelwright.training.checkpoints.snapshot import FORMAT, Contents


def write(
    contents: Contents, target: Path, score: Score | None = None, permit: Callable[[], None] = lambda: None
) -> None:
    """Write ``contents`` to the folder ``target``: first into a hidden one beside it, which is then renamed.

    Raises:
        ModelwrightError: disk full, no permission; or ``permit``, asked just before the renaming, raises it.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")  # another world may write that step too
    make_folder(partial)
    try:
        with speaking(partial):
            _fill(partial, contents, score)
            permit()
            shutil.rmtree(target, ignore_errors=True)  # if it is there, it is damaged
            partial.rename(target)
            flush_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would be in the way


def clear_leftovers(folder: Path) -> None:
    """Take away what a kill left behind: half-written checkpoints and half-removed ones."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def flush_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _fill(folder: Path, contents: Contents, score: Score | None) -> None:
    contents.arrived()
    files: dict[str, dict[str, Any]] = {}
    for name, tensors in contents.files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        files[name] = write_tensors(tensors, file)
        flush_folder(file.parent)
    text = contents.numbers.encode()
    with replacing(folder / "state.json") as temporary:
        temporary.write_bytes(text)
    files["state.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    scored = {} if score is None else {"score": score.to_json()}
    write_json(folder / "manifest.json", {"format": FORMAT, **scored, "files": dict(sorted(files.items()))})
    flush_folder(folder)
