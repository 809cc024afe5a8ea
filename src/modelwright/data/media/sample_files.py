"""Files that become samples of one shape: decoded in order by several threads, written as raw arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.files import speaking
from modelwright.data.media.class_folders import Labelled, class_files, divided
from modelwright.data.memory import InMemory

_AHEAD = 32  # files per thread whose samples are in memory at once
_MOST_THREADS = 8

Sample = NDArray[Any]
Decoded = tuple[Labelled, Sample | None]


def folder_parts(
    folder: str, held_out_folder: str | None, held_out: float | None, seed: int, endings: frozenset[str]
) -> dict[str, list[Labelled]]:
    """The files to learn from and those to judge by.

    Raises:
        ModelwrightError: a folder is missing, or holds none.
    """
    files = class_files(Path(folder), endings)
    if held_out_folder is None:
        return divided(files, 0.1 if held_out is None else held_out, seed)
    return {"train": files, "held_out": class_files(Path(held_out_folder), endings, "held_out_folder")}


def in_order(
    decode: Callable[[Labelled], Sample | None], files: Sequence[Labelled], threads: int | None
) -> Iterator[Decoded]:
    """Files with their samples, in the order of ``files`` however many threads decode; ``None`` is left out later."""
    count = threads or min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        for start in range(0, len(files), count * _AHEAD):
            chunk = files[start : start + count * _AHEAD]
            yield from zip(chunk, pool.map(decode, chunk), strict=True)


def write_samples(
    folder: Path, part: str, decoded: Iterable[Decoded], classes: Sequence[str], skipped: list[str]
) -> int:
    """Write samples and their classes as they come; returns how many, and adds to ``skipped`` what was left out.

    Raises:
        ModelwrightError: no sample is left, or the disk is full.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    targets: list[int] = []
    with speaking(folder), _inputs(folder, part).open("wb") as file:
        for labelled, sample in decoded:
            if sample is None:
                skipped.append(labelled.name)
                continue
            file.write(sample.tobytes())
            targets.append(numbers[labelled.label])
        np.save(_targets(folder, part), np.array(targets, dtype=np.int64))
    if not targets:
        raise ModelwrightError("not one of the files could be read", where=part, remedy="mend them")
    return len(targets)


def copies(folder: Path, parts: Mapping[str, int]) -> int:
    """How many samples to judge by are to be learnt from too, byte by byte; ``parts`` are numbers of samples."""
    if "held_out" not in parts:
        return 0
    hashes = {part: _hashes(_inputs(folder, part), count) for part, count in parts.items()}
    return int(np.isin(hashes["held_out"], hashes["train"]).sum())


def _hashes(path: Path, count: int) -> NDArray[np.uint64]:
    size = path.stat().st_size // count
    with path.open("rb") as file:
        found = (hashlib.blake2b(file.read(size), digest_size=8).digest() for _ in range(count))
        return np.frombuffer(b"".join(found), dtype=np.uint64)


def mapped(folder: Path, part: str, kind: type[np.number[Any]], shape: tuple[int, ...]) -> InMemory:
    """What :func:`write_samples` wrote: ``inputs [samples, *shape]`` and ``targets [samples]``."""
    targets = np.load(_targets(folder, part), mmap_mode="r", allow_pickle=False)
    inputs = np.memmap(_inputs(folder, part), dtype=kind, mode="r", shape=(len(targets), *shape))
    return InMemory({"inputs": inputs, "targets": targets})


def tell(manifest: Mapping[str, Any]) -> None:
    """Tell which files were left out when the data was prepared, and how many are learnt from and judged by."""
    if count := manifest["copies"]:
        events.emit(
            "samples-shared",
            f"{count} of {manifest['samples']['held_out']} samples to judge by are copies of samples to learn from",
            level="warning",
            count=count,
        )
    if names := manifest["skipped"]:
        events.emit(
            "files-skipped",
            f"{len(names)} files could not be read and are left out, such as {names[0]}",
            level="warning",
            files=names,
        )


def corrupt_file(what: str, path: Path, error: Exception) -> ModelwrightError:
    """An error that names a file which cannot be decoded."""
    return ModelwrightError(
        f"the {what} cannot be read: {error}",
        where=str(path),
        remedy="mend it, take it out, or set corrupt: skip",
    )


def check_choice(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a value that is none of ``known``.

    Raises:
        ModelwrightError: it is not.
    """
    if value not in known:
        raise ModelwrightError(f"{name} is {value!r}", where=name, remedy=f"choose one of {', '.join(map(str, known))}")


def check_held_out_once(held_out: float | None, named: object) -> None:
    """Refuse held-out data that is given twice.

    Raises:
        ModelwrightError: as a part, and as files.
    """
    if held_out is not None and named:
        raise ModelwrightError(
            "held-out data is given twice: as a part and as files of its own", where="held_out", remedy="keep one"
        )


def _inputs(folder: Path, part: str) -> Path:
    return folder / f"{part}.inputs.bin"


def _targets(folder: Path, part: str) -> Path:
    return folder / f"{part}.targets.npy"
