"""Sound in WAV files with a class each, brought once to one rate and one length."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Seconds
from modelwright.data import Splits
from modelwright.data.folders import build_once
from modelwright.data.manifest import read_manifest, write_manifest
from modelwright.data.media.class_folders import Labelled, classes_of, divided, files_key
from modelwright.data.media.file_encoder import FileEncoder
from modelwright.data.media.riff import Sound, read_wav
from modelwright.data.media.sample_files import (
    check_choice,
    check_held_out_once,
    copies,
    corrupt_file,
    folder_parts,
    in_order,
    mapped,
    tell,
    write_samples,
)
from modelwright.data.sequences.rows import check_part
from modelwright.data.sequences.sources import Row, record_files

try:
    import scipy  # type: ignore[import-untyped,unused-ignore]
    from scipy.signal import resample_poly  # type: ignore[import-untyped,unused-ignore]
except ImportError:  # needed for files of another rate only
    scipy = None

FORMAT = 2  # raise it when the same files give other arrays, or other facts
_ENDINGS = frozenset({".wav", ".wave"})


@dataclass(frozen=True, kw_only=True)
class Wav:
    """Sound as ``FOLDER/CLASS/*.wav``, or as records with a path and a label. Channels are mixed into one.

    ``inputs`` are float32 ``[batch, samples]`` within about [-1, 1], ``targets`` int64 ``[batch]``.

    Attributes:
        folder: holds a folder for each class.
        held_out_folder: holds files to judge by, in folders of the same names.
        files: patterns of files of records, instead of ``folder``.
        held_out_files: patterns of records to judge by.
        root: the folder that patterns start from; paths in records start from their own file's folder.
        path: column of the paths.
        label: column of the labels.
        rate: samples a second that all are brought to; other rates need SciPy.
        seconds: of each sample; a longer file loses its end, a shorter one is filled up with silence.
        held_out: part of each class to judge by, in [0, 1). Each file is decided by a hash of its name. ``None``: a
            tenth, or what ``held_out_folder`` or ``held_out_files`` name.
        corrupt: what a file that cannot be read does: ``stop`` ends with its name, ``skip`` leaves it out and tells.
        threads: that read; ``None``: as many as there are cores, up to 8. The result is the same.
        seed: chooses which files are held out.
    """

    folder: str | None = None
    held_out_folder: str | None = None
    files: tuple[str, ...] = ()
    held_out_files: tuple[str, ...] = ()
    root: str = "."
    path: str = "path"
    label: str = "label"
    rate: int = 16000
    seconds: Seconds = 1.0
    held_out: float | None = None
    corrupt: Literal["stop", "skip"] = "stop"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_part(self.held_out or 0.0)
        check_choice("corrupt", self.corrupt, ("stop", "skip"))
        if bool(self.files) == (self.folder is not None):
            raise ModelwrightError(
                "sounds come from a folder or from files of records; one of them must be named",
                where="folder",
                remedy="folder: sounds   or   files: [sounds.csv]",
            )
        if self.rate < 1 or self.samples < 1:
            raise ModelwrightError(
                f"{self.seconds} s at {self.rate} samples a second are no samples",
                where="seconds",
                remedy="seconds: 1, rate: 16000",
            )
        check_held_out_once(self.held_out, self.held_out_folder or self.held_out_files)

    @property
    def samples(self) -> int:
        """Numbers in one sample."""
        return round(self.rate * self.seconds)

    def prepare(self, cache: Path) -> Path:
        """Read the files, unless that was done; returns the folder of the arrays.

        Raises:
            ModelwrightError: no files, one of them cannot be read or has another rate, or the disk is full.
        """
        parts = self._parts()
        classes = classes_of(parts, "held_out_folder" if self.folder else "held_out_files")
        settings: dict[str, Any] = {
            "format": FORMAT,
            "rate": self.rate,
            "samples": self.samples,
            "corrupt": self.corrupt,
        }
        settings |= {"scipy": scipy.__version__ if scipy is not None else "", "files": files_key(parts)}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        folder = build_once(cache / f"wav-{key[:16]}", partial(self._build, parts, classes))
        tell(read_manifest(folder))
        return folder

    def open(self, folder: Path) -> Splits:
        """Map the arrays.

        Raises:
            ModelwrightError: a file is missing or damaged.
        """
        manifest = read_manifest(folder)
        datasets = {part: mapped(folder, part, np.float32, (self.samples,)) for part in manifest["samples"]}
        classes = tuple(manifest["classes"])
        return Splits(
            datasets["train"],
            datasets.get("held_out"),
            manifest["facts"],
            encoder=FileEncoder(self.read, _ENDINGS, classes, self.path),
            classes=classes,
        )

    def read(self, path: Path) -> NDArray[np.float32]:
        """One sound as a sample.

        Raises:
            ModelwrightError: it cannot be read, or has another rate and SciPy is missing.
        """
        try:
            sound = read_wav(path)
        except (OSError, ValueError) as error:
            raise corrupt_file("sound", path, error) from error
        return _fitted(_at_rate(sound, self.rate, path), self.samples)

    def _parts(self) -> dict[str, list[Labelled]]:
        if self.folder is not None:
            return folder_parts(self.folder, self.held_out_folder, self.held_out, self.seed, _ENDINGS)
        sources = record_files(self.files, self.held_out_files, self.root)
        parts = {part: [self._named(row) for row in source.rows()] for part, source in sources.items()}
        if "held_out" in parts:
            return parts
        return divided(parts["train"], 0.1 if self.held_out is None else self.held_out, self.seed)

    def _named(self, row: Row) -> Labelled:
        name = row.text(self.path)
        path = Path(row.where.rpartition(":")[0]).parent / name
        if not path.is_file():
            raise ModelwrightError(
                f"there is no file {path}", where=row.where, remedy="write paths from the folder of the records"
            )
        label = row.value(self.label)
        if not isinstance(label, (str, int)) or label == "":
            raise ModelwrightError(
                f"the label is {label!r}, not a name or a whole number",
                where=row.where,
                remedy="mend the record, or leave it out",
            )
        return Labelled(name, path, str(label))

    def _build(self, parts: dict[str, list[Labelled]], classes: list[str], folder: Path) -> None:
        started = time.perf_counter()
        skipped: list[str] = []
        counts = {
            part: write_samples(folder, part, in_order(self._decoded, files, self.threads), classes, skipped)
            for part, files in parts.items()
        }
        facts = {"samples": self.samples, "sample_rate": self.rate, "classes": len(classes)}
        told = {"skipped": skipped, "copies": copies(folder, counts)}
        write_manifest(folder, {"facts": facts, "classes": classes, "samples": counts, **told})
        seconds = time.perf_counter() - started
        events.emit("data-prepared", f"{sum(counts.values())} sounds in {seconds:.3g} s", samples=counts)

    def _decoded(self, file: Labelled) -> NDArray[np.float32] | None:
        try:
            return self.read(file.path)
        except ModelwrightError as error:
            if self.corrupt == "skip" and isinstance(error.__cause__, (OSError, ValueError)):
                return None
            raise


def _at_rate(sound: Sound, rate: int, path: Path) -> NDArray[np.float32]:
    """One channel at ``rate``, through a filter that keeps frequencies above half the new rate from folding down."""
    mono = sound.samples.mean(axis=1, dtype=np.float64)
    if sound.rate == rate:
        return np.asarray(mono, dtype=np.float32)
    if scipy is None:
        raise ModelwrightError(
            f"the sound has {sound.rate} samples a second, not {rate}, and to change that takes SciPy",
            where=str(path),
            remedy=f"pip install scipy, or set rate: {sound.rate}",
        )
    shared = math.gcd(rate, sound.rate)
    return np.asarray(resample_poly(mono, rate // shared, sound.rate // shared), dtype=np.float32)


def _fitted(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    kept: NDArray[Any] = samples[:length]
    return np.ascontiguousarray(np.pad(kept, (0, length - len(kept))), dtype=np.float32)
